# ruff: noqa: E501 - a program is one line where it can be
"""Honest programs of twenty kinds and more: the sandbox must not be noticed by them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Honest:
    name: str
    code: str
    tests: Any
    needs: str = ""
    """A package that has to be installed."""


def _prints(text: str, stdin: str = "") -> list[dict[str, str]]:
    return [{"stdin": stdin, "stdout": text}]


HONEST = [
    Honest("hello", "print('hello')", _prints("hello\n")),
    Honest("no-newline", "import sys\nsys.stdout.write('a b')", _prints("a b")),
    Honest("input-lines", "n=int(input())\nprint(sum(int(input()) for _ in range(n)))", _prints("6", "3\n1\n2\n3\n")),
    Honest("read-all", "import sys\nprint(len(sys.stdin.buffer.read()))", _prints("3000000", "x" * 3_000_000)),
    Honest("iterate-stdin", "import sys\nprint(sum(len(l) for l in sys.stdin))", _prints("200000", "a\n" * 100_000)),
    Honest("big-output", "for i in range(400000): print(i)", _prints("\n".join(map(str, range(400_000))))),
    Honest("end-of-file", "try:\n    input()\nexcept EOFError: print('end')", _prints("end")),
    Honest("main-guard", "def main(): print(1)\nif __name__ == '__main__':\n    main()", _prints("1")),
    Honest("exit-0", "import sys\nprint(1)\nsys.exit(0)", _prints("1")),
    Honest("os-exit", "import os,sys\nprint(1)\nsys.stdout.flush()\nos._exit(0)", _prints("1")),
    Honest("recursion", "import sys\nsys.setrecursionlimit(10**6)\ndef f(n): return 0 if n==0 else 1+f(n-1)\nprint(f(50000))", _prints("50000")),
    Honest(
        "recursion-in-thread",
        """
import sys,threading
sys.setrecursionlimit(10**6)
threading.stack_size(64<<20)
def f(n): return 0 if n==0 else 1+f(n-1)
t=threading.Thread(target=lambda: print(f(100000)))
t.start()
t.join()""",
        _prints("100000"),
    ),
    Honest(
        "threads",
        """
from concurrent.futures import ThreadPoolExecutor
with ThreadPoolExecutor(8) as p: print(sum(p.map(lambda x:x*x,range(100))))""",
        _prints("328350"),
    ),
    Honest("thread-unjoined", "import threading,time\nthreading.Thread(target=lambda:(time.sleep(.1),print('late'))).start()", _prints("late")),
    Honest(
        "temporary-files",
        """
import tempfile,os
with tempfile.NamedTemporaryFile('w+',delete=False) as f:
    f.write('abc')
print(open(f.name).read())
os.unlink(f.name)
with tempfile.TemporaryDirectory() as d:
    open(d+'/x','w').write('y')
    print(os.listdir(d))""",
        _prints("abc\n['x']"),
    ),
    Honest("working-directory", "open('out.txt','w').write('z')\nprint(open('out.txt').read())", _prints("z")),
    Honest("own-source", "print(open(__file__).read().count('own') > 0)", _prints("True")),
    Honest(
        "subprocess-of-itself",
        "import subprocess,sys\nif len(sys.argv)>1: print('child')\nelse: print(subprocess.run([sys.executable,__file__,'x'],capture_output=True,text=True).stdout,end='')",
        _prints("child"),
    ),
    Honest("shell", "import subprocess\nprint(subprocess.check_output('echo $((1+2)) | cat',shell=True,text=True),end='')", _prints("3")),
    Honest(
        "multiprocessing",
        "import multiprocessing as m\ndef f(x): return x*x\nif __name__=='__main__':\n    with m.Pool(2) as p: print(p.map(f,[1,2,3]))",
        _prints("[1, 4, 9]"),
    ),
    Honest(
        "multiprocessing-queue",
        "import multiprocessing as m\ndef f(q): q.put('x')\nif __name__=='__main__':\n    q=m.Queue()\n    p=m.Process(target=f,args=(q,))\n    p.start()\n    print(q.get())\n    p.join()",
        _prints("x"),
    ),
    Honest("fork-and-wait", "import os\np=os.fork()\nif p==0: os._exit(3)\nprint(os.waitstatus_to_exitcode(os.waitpid(p,0)[1]))", _prints("3")),
    Honest("asyncio", "import asyncio\nasync def f():\n    await asyncio.sleep(.01)\n    return 5\nprint(asyncio.run(f()))", _prints("5")),
    Honest(
        "asyncio-subprocess",
        "import asyncio\nasync def f():\n    p=await asyncio.create_subprocess_exec('echo','hi',stdout=-1)\n    print((await p.communicate())[0].decode(),end='')\nasyncio.run(f())",
        _prints("hi"),
    ),
    Honest("alarm", "import signal,time\nsignal.signal(signal.SIGALRM,lambda *a: print('rang'))\nsignal.setitimer(signal.ITIMER_REAL,.05)\ntime.sleep(.3)", _prints("rang")),
    Honest("atexit", "import atexit\natexit.register(print,'bye')\nprint('hi')", _prints("hi\nbye")),
    Honest("finalizer", "class A:\n    def __del__(s): print('gone')\na=A()", _prints("gone")),
    Honest("random", "import random\nrandom.seed(1)\nprint(random.randint(1,10**6))", _prints("140892")),
    Honest("time-and-date", "import time,datetime\nt=time.time()\nprint(datetime.datetime.fromtimestamp(t).year>2000 and time.monotonic()>0)", _prints("True")),
    Honest("decimal-fraction", "from decimal import *\nfrom fractions import *\nprint(Decimal(1)/3, Fraction(1,3))", _prints("0.3333333333333333333333333333 1/3")),
    Honest("sqlite", "import sqlite3\nc=sqlite3.connect('x.db')\nc.execute('create table t(a)')\nc.execute('insert into t values(4)')\nc.commit()\nprint(*c.execute('select a from t').fetchone())", _prints("4")),
    Honest("unix-socket-pair", "import socket\na,b=socket.socketpair()\na.send(b'x')\nprint(b.recv(1).decode())", _prints("x")),
    Honest("named-pipe", "import os,threading\nos.mkfifo('p')\nt=threading.Thread(target=lambda: open('p','w').write('x'))\nt.start()\nprint(open('p').read())", _prints("x")),
    Honest("mmap", "import mmap\nm=mmap.mmap(-1,8192)\nm[:3]=b'abc'\nprint(m[:3].decode())", _prints("abc")),
    Honest("ctypes", "import ctypes\nprint(ctypes.CDLL(None).abs(-3))", _prints("3")),
    Honest("unicode", "print(input()+'→ü')", _prints("é→ü", "é\n")),
    Honest("user", "import pwd,os,getpass\nprint(pwd.getpwuid(os.getuid()).pw_name, os.path.expanduser('~'))", _prints("program /tmp")),
    Honest("stderr", "import sys,warnings\nwarnings.warn('x')\nprint('a',file=sys.stderr)\nprint('b')", _prints("b")),
    Honest("dataclass-pickle", "import pickle\nfrom dataclasses import dataclass\n@dataclass\nclass P: x:int\nprint(pickle.loads(pickle.dumps(P(3))))", _prints("P(x=3)")),
    Honest("heavy-imports", "import json,re,inspect,typing,logging,unittest,email,http.client,xml.dom.minidom,zipfile,ssl,csv\nprint('ok')", _prints("ok")),
    Honest("numpy", "import numpy as np\nprint(int((np.arange(10)@np.arange(10))))", _prints("285"), "numpy"),
    Honest("sympy", "import sympy\nprint(sympy.factor('x**2-1'))", _prints("(x - 1)*(x + 1)"), "sympy"),
    Honest("function", "def add(a,b): return a+b", [{"function": "add", "args": [1, 2], "expected": 3}]),
    Honest("function-tuple", "def f(x): return (x,[x],{'a':x})", [{"function": "f", "args": [1], "expected": [1, [1], {"a": 1}]}]),
    Honest("function-float", "def f(x): return x/3", [{"function": "f", "args": [1], "expected": 0.333333333}]),
    Honest("function-none", "def f(x): pass", [{"function": "f", "args": [1], "expected": None}]),
    Honest("function-big", "def f(n): return list(range(n))", [{"function": "f", "args": [50000], "expected": list(range(50000))}]),
    Honest("function-huge-integer", "def f(n): return 7**n", [{"function": "f", "args": [20000], "expected": 7**20000}]),
    Honest("function-prints", "def f(x):\n    print('noise', x)\n    return x", [{"function": "f", "args": [1], "expected": 1}]),
    Honest("function-state", "import functools\n@functools.lru_cache(None)\ndef f(n): return n if n<2 else f(n-1)+f(n-2)", [{"function": "f", "args": [n], "expected": e} for n, e in ((10, 55), (90, 2880067194370816120))]),
    Honest("solution-class", "class Solution:\n    def twoSum(self, nums, target):\n        return [0,1]", [{"function": "twoSum", "args": [[2, 7], 9], "expected": [0, 1]}]),
    Honest("function-with-main", "def f(x): return x\nif __name__=='__main__':\n    print(f(int(input())))", [{"function": "f", "args": [4], "expected": 4}]),
    Honest("asserts", "def f(x): return x*2", "assert f(2)==4\nassert f('a')=='aa'\nassert isinstance(f([1]),list)"),
    Honest("asserts-in-place", "def f(x): x.append(1)", "a=[0]\nf(a)\nassert a==[0,1]"),
    Honest("asserts-raises", "def f(x):\n    raise ValueError('no')", "try:\n    f(1)\n    assert False\nexcept ValueError as e:\n    assert str(e)=='no'"),
    Honest("asserts-class", "class P:\n    def __init__(s,x): s.x=x\n    def get(s): return s.x", "p=P(3)\nassert p.get()==3 and p.x==3\np.x=4\nassert p.get()==4"),
    Honest("asserts-iterator", "def f(n): return map(str,range(n))", "assert list(f(3))==['0','1','2']"),
    Honest("asserts-set", "def f(x): return set(x), frozenset(x), (1,2)", "assert f([1,1])==({1},frozenset({1}),(1,2))"),
    Honest("asserts-module", "import math\ndef f(x): return math.sqrt(x)", "assert math.isclose(f(2),1.4142135623)"),
    Honest("asserts-generator", "def f(n):\n    for i in range(n): yield i", "assert [x for x in f(3)]==[0,1,2]\nassert next(f(2))==0"),
]  # fmt: skip
