"""Reading and comparing math answers: where the answer stands, what it says, and whether two say the same."""
