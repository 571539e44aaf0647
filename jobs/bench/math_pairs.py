r"""Pairs of a gold answer and an answer, with whether they say the same: the equivalence suite.

Each line is a gold answer, then answers that are equal to it (after ``<=>``) and near misses (after ``<#>``).
Written for this project, rule by rule, with both sides for each rule.
"""
# ruff: noqa: E501  a rule's cases stand on one line

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Pair:
    """A gold answer, an answer, whether they are equal, and the rule that the pair belongs to."""

    rule: str
    gold: str
    answer: str
    equal: bool


TEXT = r"""
# integers
42 <=> 42 <=> 042 <=> +42 <=> 42. <=> $42$ <=> 42.0 <=> \boxed{42} <=> ４２ <#> 43 <#> -42 <#> 4.2 <#> 24 <#> 420
-7 <=> -7 <=> −7 <=> -7.0 <=> {-7} <=> \left(-7\right) <#> 7 <#> --7 <#> -7.1
0 <=> 0 <=> -0 <=> 0.0 <=> 0/5 <#> 1 <#> \emptyset <#> 0.0001 <#> \text{none}
1000000 <=> 10^6 <=> 1,000,000 <=> 1{,}000{,}000 <=> 1\,000\,000 <=> 1 000 000 <=> 1 million <=> 1\times10^6 <#> 100000 <#> 1,000,00 <#> 10^7
123456789012345678901234567890 <=> 123456789012345678901234567890 <=> 123,456,789,012,345,678,901,234,567,890 <#> 123456789012345678901234567891
# decimals
0.5 <=> .5 <=> 0.50 <=> \frac12 <=> 1/2 <=> 50\% <=> \frac{5}{10} <#> 0.05 <#> 5 <#> 0.51 <#> -0.5 <#> 500
3.14 <=> 3.14 <=> 3.140 <=> 314/100 <#> 3.1 <#> 3.141 <#> \pi <#> 3,14,1
0.0000001 <=> 10^{-7} <=> 1e-7 <=> 1\times10^{-7} <#> 4\times10^{-7} <#> 0 <#> 0.0000004 <#> 0.00000010001
\frac13 <=> 0.333333 <=> 0.3333333333 <=> 0.\overline{3} <=> 0.333\ldots <=> 0.\dot{3} <=> 0.(3) <#> 0.33 <#> 0.3 <#> 0.333 <#> 0.343434 <#> 0.333334
\sqrt{2} <=> 1.41421356 <=> 1.414214 <=> 2^{1/2} <=> 2^{0.5} <=> √2 <=> \sqrt2 <=> \frac{2}{\sqrt{2}} <#> 1.41 <#> 1.414 <#> 1.414215 <#> 2 <#> \sqrt3
0.1 <=> 0.10 <=> 1/10 <=> .1 <#> 0.1000001 <#> 0.11 <#> 0.0999999
3.14159265 <=> 3.1415927 <=> 3.14159265 <#> 3.1415926535 1 <#> 3.15159265
12.5 <=> 12\frac12 <=> 25/2 <=> 12.50 <=> \frac{25}{2} <#> 12.05 <#> 125 <#> 1.25
0.1\overline{6} <=> 1/6 <=> \frac{1}{6} <=> 0.1666666667 <#> 0.16 <#> 0.\overline{16} <#> 0.17
# fractions
\frac{3}{4} <=> 3/4 <=> \dfrac{3}{4} <=> \tfrac34 <=> 0.75 <=> \frac{6}{8} <=> ¾ <=> \frac{-3}{-4} <=> \cfrac{3}{4} <=> {3 \over 4} <#> 4/3 <#> -3/4 <#> 34 <#> 3.4 <#> \frac{3}{5}
-\frac{2}{3} <=> \frac{-2}{3} <=> \frac{2}{-3} <=> -2/3 <=> -\left(\frac{2}{3}\right) <#> \frac23 <#> -\frac32 <#> 2-3
\frac{1}{23} <=> 1/23 <=> \frac{2}{46} <#> 12/3 <#> 1/2 3 <#> 123 <#> \frac{12}{3}
\frac{x}{2} <=> x/2 <=> \frac12x <=> 0.5x <=> \frac{1}{2}\cdot x <#> \frac2x <#> \frac{1}{2x} <#> 2x
\frac{a+b}{c} <=> (a+b)/c <=> \frac{a}{c}+\frac{b}{c} <=> \frac{b+a}{c} <#> a+\frac bc <#> \frac{a-b}{c} <#> \frac{c}{a+b}
\frac{\frac{1}{2}}{3} <=> \frac16 <=> 1/6 <#> \frac{3}{2} <#> \frac{2}{3}
# percentages
25\% <=> 25% <=> 0.25 <=> 25 <=> \frac14 <=> 25 percent <=> 25\text{ percent} <#> 2.5\% <#> 2500 <#> 0.0025 <#> 75\%
12.5\% <=> 12.5 <=> 0.125 <=> 1/8 <=> 12\frac{1}{2}\% <#> 12\% <#> 1.25
50 <=> 50\% <=> 50 percent <#> 0.5 <#> 5000 <#> 5\%
# mixed numbers
2\frac{1}{2} <=> 5/2 <=> 2.5 <=> 2 1/2 <=> 2½ <=> \frac52 <=> 2\ \frac{1}{2} <#> 1 <#> 21/2 <#> 2\frac{1}{3} <#> \frac{2}{2}
-1\frac{3}{4} <=> -1.75 <=> -\frac74 <=> -7/4 <#> -0.25 <#> -\frac34 <#> 1\frac34
3\frac{2}{7} <=> \frac{23}{7} <=> 23/7 <=> 3+\frac27 <#> \frac67 <#> 3.27 <#> 32/7
# units and currency
5\text{ cm} <=> 5 <=> 5cm <=> 5\,\mathrm{cm} <=> 5 centimeters <=> 50\text{ mm} <=> 0.05\text{ m} <#> 5\text{ m} <#> 5\text{ kg} <#> 50\text{ cm} <#> 6\text{ cm}
12 <=> 12\text{ inches} <=> 12 apples <=> 12\text{ cm}^2 <=> \$12 <=> 12\text{ people} <#> 13\text{ inches} <#> 1.2\text{ inches} <#> 12^2
36\text{ cm}^2 <=> 36 <=> 36\text{ square centimeters} <=> 36\ \mathrm{cm^2} <=> 36 cm² <=> 36\text{ sq cm} <#> 36\text{ cm} <#> 36\text{ cm}^3 <#> 6\text{ cm}^2
60\text{ km/h} <=> 60 kilometers per hour <=> 60\text{ km/hr} <=> 60 <#> 60\text{ m/s} <#> 60\text{ mph} <#> 60\text{ km}
\$5.50 <=> 5.50 <=> 5.5 <=> 5.50\text{ dollars} <=> $5.50 <=> \$5.5 <=> 550\text{ cents} <#> 5.05 <#> \text{€}5.50 <#> \$55
2\text{ hours} <=> 120\text{ minutes} <=> 2\text{ h} <=> 2 <=> 2 hrs <#> 2\text{ minutes} <#> 12\text{ hours} <#> 2\text{ days}
3\text{ million} <=> 3{,}000{,}000 <=> 3000000 <=> 3\times10^6 <#> 3\text{ billion} <#> 300000
15\text{ students} <=> 15 <=> 15\text{ students} <=> 15 students <#> 15\text{ teachers} <#> 16\text{ students} <#> 15\%
2.5\text{ kg} <=> 2500\text{ g} <=> 2.5\text{ kilograms} <#> 250\text{ g} <#> 2.5\text{ g} <#> 2.5\text{ lb}
10\text{ m/s}^2 <=> 10 <=> 10\text{ meters per second}^2 <#> 10\text{ m/s} <#> 100\text{ m/s}^2
# thousands
1,234 <=> 1234 <=> 1{,}234 <=> 1\,234 <=> 1 234 <=> 1234.0 <#> 1.234 <#> 1,23,4 <#> 12,34 <#> 1,235
\$1{,}250 <=> 1250 <=> 1,250 <=> \$1250.00 <#> 125 <#> 1.25
-12,345.67 <=> -12345.67 <=> -12{,}345.67 <#> -12.34567 <#> 12,345.67
# scientific notation
1.5\times10^{3} <=> 1500 <=> 1.5e3 <=> 1.5E3 <=> 1.5 \cdot 10^3 <=> 15\times 10^2 <=> 1,500 <#> 1.5\times10^{2} <#> 15000 <#> 1.5^3 <#> 1.53
6.02\times10^{23} <=> 6.02e23 <=> 602\times10^{21} <=> 6.02 × 10²³ <#> 6.02\times10^{22} <#> 6.03\times10^{23} <#> 6.02\times23
3\times10^{-4} <=> 0.0003 <=> 3e-4 <=> 3/10000 <#> 3\times10^{4} <#> 0.003 <#> -30000
# radicals
2\sqrt{2} <=> \sqrt{8} <=> \sqrt8 <=> 2\cdot\sqrt2 <=> 2√2 <=> 8^{1/2} <=> \frac{4}{\sqrt2} <=> 2^{3/2} <#> \sqrt{2} <#> \sqrt{4} <#> 4\sqrt2 <#> 2+\sqrt{2} <#> \sqrt[2]{2}
\sqrt[3]{16} <=> 2\sqrt[3]{2} <=> 16^{1/3} <=> ∛16 <#> \sqrt{16} <#> 4 <#> 3\sqrt{16} <#> 2\sqrt[3]{4}
\frac{\sqrt{3}}{3} <=> \frac{1}{\sqrt3} <=> \sqrt{\frac13} <=> \sqrt{1/3} <=> \sqrt3/3 <#> \frac{\sqrt3}{2} <#> \sqrt3 <#> \frac{3}{\sqrt{2}}
\sqrt{5+2\sqrt{6}} <=> \sqrt2+\sqrt3 <=> \sqrt3+\sqrt2 <#> \sqrt5+\sqrt6 <#> \sqrt{5}+2\sqrt6 <#> \sqrt{11}
-2 <=> \sqrt[3]{-8} <=> (-8)^{1/3} <#> \sqrt[3]{8} <#> \sqrt{4} <#> \sqrt{-8}
1+\sqrt5 <=> \sqrt5+1 <=> \frac{4}{\sqrt5-1} <#> \sqrt{6} <#> 1-\sqrt5 <#> \sqrt{1+5}
|x| <=> \sqrt{x^2} <=> \left|x\right| <=> \lvert x\rvert <=> |-x| <#> x <#> -x <#> \sqrt{x}
# exponents
x^2 <=> x\cdot x <=> x**2 <=> x² <=> x^{2} <=> (x)^2 <=> (-x)^2 <#> 2x <#> x2 <#> x^3 <#> -x^2 <#> x_2
2^{10} <=> 1024 <=> 4^5 <=> 2^10 <=> 32^2 <#> 210 <#> 20 <#> 2^{11} <#> 10^2
a^{m+n} <=> a^m a^n <=> a^m\cdot a^n <=> a^{n+m} <#> a^{mn} <#> a^m+a^n <#> a^m+n
e^{2x} <=> (e^x)^2 <=> \exp(2x) <=> e^x\cdot e^x <#> e^{x^2} <#> 2e^x <#> e^2x
\frac{1}{x^3} <=> x^{-3} <=> 1/x^3 <=> (1/x)^3 <#> x^3 <#> -x^3 <#> \frac{3}{x} <#> x^{-1/3}
2^{200}+1 <=> 4^{100}+1 <=> 1+2^{200} <#> 2^{200} <#> 2^{201} <#> 2^{200}-1
5^{-2} <=> 0.04 <=> 1/25 <=> \frac{1}{25} <#> -25 <#> 25 <#> -10
# polynomials
x^2-4 <=> (x-2)(x+2) <=> -4+x^2 <=> (x+2)(x-2) <#> (x-2)^2 <#> x^2+4 <#> x^2-2 <#> (x-4)(x+4)
(x+1)^3 <=> x^3+3x^2+3x+1 <=> (1+x)^3 <=> (x+1)(x+1)(x+1) <#> x^3+1 <#> x^3+3x^2+3x <#> (x+1)^2
\frac{n(n+1)}{2} <=> n(n+1)/2 <=> \frac{n^2+n}{2} <=> \frac12n^2+\frac12n <=> \binom{n+1}{2} <#> \frac{n(n-1)}{2} <#> n(n+1) <#> \frac{n^2}{2}
3xy <=> 3yx <=> x\cdot 3y <=> 3x\times y <#> 3x+y <#> 3x <#> 3x^y <#> xy
x+1 <=> 1+x <=> \frac{x^2-1}{x-1} <=> x - (-1) <#> x-1 <#> x <#> y+1 <#> 1-x
2(x+3) <=> 2x+6 <=> 6+2x <#> 2x+3 <#> 2x+5 <#> x+6
1 <=> x-x+1 <=> \frac{x}{x} <=> \sin^2x+\cos^2x <#> x <#> \sin^2x-\cos^2x
# logarithms
\log_2 8 <=> 3 <=> \log_{2}{8} <=> \frac{\ln 8}{\ln 2} <=> \log_2(8) <#> \log_8 2 <#> 8 <#> \log 8 <#> 2^8
\ln 2 <=> \ln(2) <=> \log_e 2 <=> -\ln\frac12 <=> \frac{\ln 4}{2} <#> \log 2 <#> \ln 3 <#> \log_2 e <#> 0.69
\ln(xy) <=> \ln x+\ln y <=> \ln(x)+\ln(y) <=> \ln(yx) <#> \ln x\ln y <#> \ln(x+y) <#> \ln x - \ln y
2\ln x <=> \ln x^2 <=> \ln(x^2) <=> 2\ln(x) <#> (\ln x)^2 <#> \ln 2x <#> \ln^2 x
\log 100 <=> 2 <=> \log_{10}100 <=> \lg 100 <#> 10 <#> 100 <#> \ln 100
\log_3 5 <=> \frac{\log 5}{\log 3} <=> \frac{\ln5}{\ln3} <#> \log_5 3 <#> \log_3 6 <#> \frac53
# trigonometry
\frac{\sqrt3}{2} <=> \sin 60^\circ <=> \sin\frac{\pi}{3} <=> \cos 30^\circ <=> \sin(60°) <=> \cos(\pi/6) <#> \sin 60 <#> \cos 60^\circ <#> \sin 30^\circ <#> \frac{\sqrt2}{2}
\sin 2x <=> 2\sin x\cos x <=> \sin(2x) <=> 2\cos x\sin x <#> 2\sin x <#> \sin^2 x <#> \sin x^2 <#> \sin x \cos x
\cos^2 x <=> 1-\sin^2 x <=> (\cos x)^2 <=> \frac{1+\cos 2x}{2} <#> \cos x^2 <#> \cos 2x <#> 1-\sin x <#> \sin^2 x
\arctan 1 <=> \frac{\pi}{4} <=> \tan^{-1} 1 <=> \tan^{-1}(1) <=> \pi/4 <#> 45 <#> \frac{1}{\tan 1} <#> \frac\pi2 <#> \cot 1
\tan x <=> \frac{\sin x}{\cos x} <=> \sin x/\cos x <=> \frac{1}{\cot x} <#> \frac{\cos x}{\sin x} <#> \arctan x <#> \tan 2x
\sec x <=> \frac{1}{\cos x} <=> 1/\cos x <#> \csc x <#> \cos^{-1}x <#> \frac1{\sin x}
# complex numbers
3+4i <=> 4i+3 <=> 3+4\cdot i <=> 3 + 4\mathrm{i} <=> (1)(3+4i) <=> \frac{25}{3-4i} <#> 3-4i <#> 4+3i <#> 5 <#> 7i <#> 3+4
-1 <=> i^2 <=> e^{i\pi} <=> i\cdot i <=> \cos\pi <#> i <#> 1 <#> -i <#> i^3
2i <=> \sqrt{-4} <=> (1+i)^2 <=> 2\sqrt{-1} <#> -2i <#> 2 <#> (1-i)^2 <#> 4i
\frac{1+i}{2} <=> \frac12+\frac12i <=> \frac{1}{1-i} <=> \frac12+\frac i2 <#> \frac{1-i}{2} <#> 1+\frac i2 <#> \frac{1}{1+i}
e^{i\pi/3} <=> \frac12+\frac{\sqrt3}{2}i <=> \cos\frac\pi3+i\sin\frac\pi3 <#> \frac12-\frac{\sqrt3}{2}i <#> e^{i\pi/6} <#> \frac{\sqrt3}2+\frac12i
# tuples
(1,2) <=> (1, 2) <=> \left(1,2\right) <=> (1.0,\frac42) <=> (x,y)=(1,2) <=> \langle 1,2\rangle <=> x=1, y=2 <=> x=1\text{ and }y=2 <#> (2,1) <#> (1,3) <#> [1,2] <#> \{1,2\} <#> (1,2,3) <#> 12
(1,2,3) <=> (1,2,3) <=> \begin{pmatrix}1\\2\\3\end{pmatrix} <=> \langle1,2,3\rangle <=> ⟨1, 2, 3⟩ <=> (\frac22, 2, 3) <#> (1,3,2) <#> (1,2) <#> (1,2,3,4) <#> (1,2,-3)
(\sqrt8,\frac12) <=> (2\sqrt2, 0.5) <=> (\sqrt{8},1/2) <#> (\frac12,\sqrt8) <#> (\sqrt8,2) <#> (8,\frac12)
(0,0),(1,1) <=> (1,1),(0,0) <=> (0,0)\text{ and }(1,1) <=> \{(0,0),(1,1)\} <#> (0,1),(1,0) <#> (0,0) <#> (0,0),(1,1),(2,2) <#> (0,0,1,1)
(-3,0) <=> (-3, 0) <=> \left(-3,\, 0\right) <=> (x,y)=(-3,0) <#> (3,0) <#> (0,-3) <#> -3
# sets
\{1,2,3\} <=> \{3,2,1\} <=> \{1, 2, 3\} <=> 1,2,3 <=> \left\{1,2,3\right\} <=> \{1,2,2,3\} <=> {1,2,3} <#> \{1,2\} <#> \{1,2,3,4\} <#> (1,2,3) <#> \{1,2,4\}
\emptyset <=> \varnothing <=> \{\} <=> ∅ <=> \text{no solution} <=> \{ \} <#> 0 <#> \{0\} <#> \{\emptyset\} <#> \text{all real numbers}
\{-1,1\} <=> \{\pm1\} <=> \pm 1 <=> \{1,-1\} <=> x=\pm1 <#> \{1\} <#> 1 <#> (-1,1) <#> \{-1,0,1\}
\{\frac12,\sqrt2\} <=> \{\sqrt{2},0.5\} <=> \{1/2,\sqrt2\} <#> \{\frac12,2\} <#> \{2,\sqrt2\}
# intervals and unions
(-\infty,3) <=> x<3 <=> 3>x <=> (-∞, 3) <=> \left(-\infty, 3\right) <=> x\in(-\infty,3) <=> \{x\mid x<3\} <#> (-\infty,3] <#> x\le3 <#> (3,\infty) <#> x>3 <#> (-3,\infty)
[2,5) <=> 2\le x<5 <=> \left[2,5\right) <=> x\in[2,5) <=> 5>x\ge2 <=> x \ge 2\text{ and }x<5 <#> (2,5) <#> [2,5] <#> (2,5] <#> 2<x<5 <#> [2,6)
(-\infty,-1)\cup(1,\infty) <=> x<-1\text{ or }x>1 <=> (1,\infty)\cup(-\infty,-1) <=> x\in(-\infty,-1)\cup(1,\infty) <=> \mathbb{R}\setminus[-1,1] <#> (-1,1) <#> (-\infty,-1]\cup[1,\infty) <#> x<-1\text{ and }x>1 <#> (-\infty,1)\cup(1,\infty)
[0,1]\cup[1,3] <=> [0,3] <=> 0\le x\le3 <#> [0,1] <#> [0,3) <#> [0,1)\cup(1,3]
\mathbb{R} <=> (-\infty,\infty) <=> \text{all real numbers} <=> ℝ <=> x\in\mathbb{R} <=> (-\infty,+\infty) <#> \mathbb{Z} <#> (0,\infty) <#> \emptyset <#> \mathbb{R}^+
\mathbb{R}\setminus\{0\} <=> (-\infty,0)\cup(0,\infty) <=> x\ne0 <=> x \neq 0 <=> x<0\text{ or }x>0 <#> \mathbb{R} <#> x=0 <#> \mathbb{R}\setminus\{1\} <#> (0,\infty)
[-\sqrt2,\sqrt2] <=> -\sqrt2\le x\le\sqrt2 <=> [-2^{1/2},2^{1/2}] <#> (-\sqrt2,\sqrt2) <#> [-2,2] <#> [\sqrt2,-\sqrt2]
(1,2] <=> 1<x\le2 <=> ]1,2] <=> \left(1,2\right] <#> [1,2) <#> (1,2) <#> 1\le x<2
# matrices and vectors
\begin{pmatrix}1&2\\3&4\end{pmatrix} <=> \begin{bmatrix}1&2\\3&4\end{bmatrix} <=> \begin{pmatrix} 1 & 2 \\ 3 & 4 \\ \end{pmatrix} <=> \left(\begin{array}{cc}1&2\\3&4\end{array}\right) <=> [[1,2],[3,4]] <#> \begin{pmatrix}1&3\\2&4\end{pmatrix} <#> \begin{pmatrix}1&2\\3&5\end{pmatrix} <#> \begin{pmatrix}1&2&3&4\end{pmatrix} <#> -2
\begin{pmatrix}1\\2\end{pmatrix} <=> \begin{bmatrix}1\\2\end{bmatrix} <=> (1,2) <#> \begin{pmatrix}2\\1\end{pmatrix} <#> \begin{pmatrix}1\\2\\0\end{pmatrix} <#> \begin{pmatrix}1\\-2\end{pmatrix}
\begin{pmatrix}\frac12&0\\0&\sqrt4\end{pmatrix} <=> \begin{pmatrix}0.5&0\\0&2\end{pmatrix} <=> \begin{bmatrix}1/2&0\\0&2\end{bmatrix} <#> \begin{pmatrix}0.5&0\\0&4\end{pmatrix} <#> \begin{pmatrix}2&0\\0&\frac12\end{pmatrix}
\begin{pmatrix}a&b\end{pmatrix} <=> \begin{bmatrix} a & b \end{bmatrix} <=> (a,b) <#> \begin{pmatrix}b&a\end{pmatrix} <#> ab <#> a+b
# equations
y=2x+1 <=> y = 1+2x <=> 2x+1=y <=> y-2x=1 <=> 2x-y+1=0 <=> 2x+1 <=> y-1=2x <#> y=2x-1 <#> y=x+1 <#> x=2y+1 <#> y=2x <#> y>2x+1
x^2+y^2=25 <=> y^2+x^2=25 <=> x^2+y^2-25=0 <=> 25=x^2+y^2 <=> 2x^2+2y^2=50 <#> x^2-y^2=25 <#> x^2+y^2=5 <#> x+y=5 <#> 25
x=5 <=> 5 <=> x = 5 <=> 5=x <=> x=\frac{10}{2} <=> x = 5.0 <#> x=-5 <#> y=5 <#> x>5 <#> x\ne5 <#> 6
5 <=> x=5 <=> n = 5 <=> f(2)=5 <=> m+n=5 <=> AB=5 <=> \text{Area}=5 <=> = 5 <=> \approx 5 <=> 2+3=5 <#> x=6 <#> x>5 <#> x^2=5 <#> 2x=5 <#> 5=6 <#> x\ne 5
f(x)=x^2 <=> x^2 <=> f(x)=x\cdot x <=> y=x^2 <#> f(x)=2x <#> f(x)=x^3 <#> x=f^2
\frac{x^2}{4}+\frac{y^2}{9}=1 <=> 9x^2+4y^2=36 <=> \frac{y^2}{9}+\frac{x^2}{4}=1 <=> (x/2)^2+(y/3)^2=1 <#> \frac{x^2}{9}+\frac{y^2}{4}=1 <#> 9x^2+4y^2=1 <#> \frac{x^2}{4}-\frac{y^2}{9}=1
x=1,y=2 <=> y=2, x=1 <=> x=1\text{ and }y=2 <=> (1,2) <=> x=1;\ y=2 <#> x=2,y=1 <#> x=1 <#> (2,1) <#> x=1,y=3
3x+2y=6 <=> 2y+3x=6 <=> 6x+4y=12 <=> y=3-\frac32x <=> 6-3x=2y <#> 2x+3y=6 <#> 3x+2y=5 <#> 3x-2y=6 <#> 3x+2y
# inequalities
x>5 <=> 5<x <=> (5,\infty) <=> x \gt 5 <=> 2x>10 <=> x-5>0 <=> -x<-5 <#> x\ge5 <#> x<5 <#> (5,10) <#> x>6 <#> x=5
x\geq-2 <=> -2\le x <=> [-2,\infty) <=> x\geqslant-2 <=> x ≥ −2 <#> x>-2 <#> x\ge2 <#> x\le-2 <#> (-2,\infty)
-1<x<4 <=> 4>x>-1 <=> (-1,4) <=> x\in(-1,4) <=> x>-1\text{ and }x<4 <=> -1 < x \text{ and } x < 4 <#> -1\le x\le4 <#> x<4 <#> -4<x<1 <#> [-1,4]
a+b<c <=> c>a+b <=> a<c-b <=> b+a<c <=> 2a+2b<2c <#> a+b>c <#> a+b\le c <#> a-b<c <#> a+c<b
x\le 0 <=> 0\ge x <=> (-\infty,0] <=> x≤0 <#> x<0 <#> x\ge0 <#> (-\infty,0)
# plus-minus
\pm3 <=> 3,-3 <=> -3, 3 <=> x=\pm3 <=> ±3 <=> x=3\text{ or }x=-3 <=> \{3,-3\} <=> \mp3 <#> 3 <#> -3 <#> \pm2 <#> 3+-3
1\pm\sqrt2 <=> 1+\sqrt2,1-\sqrt2 <=> 1-\sqrt{2}, 1+\sqrt{2} <=> x=1\pm\sqrt{2} <=> 1\mp\sqrt2 <#> 1+\sqrt2 <#> 1\pm\sqrt3 <#> \pm1+2 <#> \pm\sqrt2
\frac{-1\pm\sqrt5}{2} <=> \frac{-1+\sqrt5}{2},\frac{-1-\sqrt5}{2} <=> -\frac12\pm\frac{\sqrt5}{2} <=> \frac{-1\mp\sqrt5}{2} <#> \frac{1\pm\sqrt5}{2} <#> \frac{-1+\sqrt5}{2} <#> -1\pm\frac{\sqrt5}{2}
\pm i <=> i,-i <=> -i, i <=> \pm\sqrt{-1} <#> i <#> \pm1 <#> 1
# multiple answers
1, 2 <=> 2, 1 <=> 1,2 <=> 1 and 2 <=> 1\text{ and }2 <=> x=1, x=2 <=> x=1\text{ or }x=2 <=> x=1,2 <=> \{1,2\} <=> 1; 2 <#> 1 <#> 2 <#> 1,3 <#> 1,2,3 <#> 1,1,2 <#> 12
-2, 0, 5 <=> 5,0,-2 <=> 0, -2, 5 <=> x = -2, 0, 5 <=> -2, 0 \text{ and } 5 <#> -2,0 <#> 2,0,5 <#> -2,0,5,6 <#> 3
\frac12, \frac13 <=> \frac13,\frac12 <=> 1/2, 1/3 <=> 0.5,\frac13 <#> \frac12,\frac23 <#> \frac{1}{2} <#> 2,3
1,2,3,\ldots <=> 1, 2, 3, \dots <=> 1,2,3,… <#> 1,2,3 <#> 1,2,\ldots <#> 1,2,4,\ldots
3,5 <=> \boxed{3}, \boxed{5} <=> \boxed{3} and \boxed{5} <=> \boxed{3, 5} <=> \boxed{5,3} <#> \boxed{3} <#> \boxed{3},\boxed{6} <#> \boxed{35}
# text
\text{Monday} <=> Monday <=> monday <=> \textbf{Monday} <=> \mathrm{Monday} <=> \text{ Monday } <#> Tuesday <#> Mon <#> \text{Sunday} <#> M
\text{Yes} <=> yes <=> Yes. <=> YES <=> \text{yes} <#> no <#> yet <#> \text{No}
\text{no solution} <=> no solution <=> No solutions <=> \emptyset <=> \text{There is no solution} <#> one solution <#> 0 <#> \text{infinitely many solutions}
\text{neither} <=> Neither <=> \text{Neither} <#> even <#> odd <#> both <#> \text{either}
\text{does not exist} <=> DNE <=> Does not exist <=> \text{DNE} <#> 0 <#> \infty <#> exists
\text{even} <=> even <=> Even <=> \mathrm{even} <#> odd <#> eve <#> \text{event}
\text{Alice and Bob} <=> Alice and Bob <=> Bob and Alice <#> Alice <#> Bob <#> Alice and Carol
five <=> 5 <=> \text{five} <=> Five <#> 4 <#> fine <#> fifteen
\text{October 30} <=> October 30 <=> october 30 <#> October 31 <#> 30 <#> November 30
# multiple choice
A <=> (A) <=> \text{A} <=> \text{(A)} <=> \textbf{(A)} <=> A. <=> a <=> (A) 12 <=> A) 12 <=> Option A <=> The answer is A <=> \mathbf{A} <#> B <#> (B) <#> (B) A <#> AB <#> \text{(D)} <#> A, B
C <=> (C) \frac12 <=> C. \frac12 <=> \textbf{(C)}\ 7 <=> choice C <#> (D) \frac12 <#> D <#> \frac12 <#> E
\text{(B)} <=> B <=> (b) <=> \boxed{B} <=> \mathrm{(B)} <#> A <#> (A) B <#> 8
# degrees
30^\circ <=> 30 <=> 30^{\circ} <=> 30° <=> 30\text{ degrees} <=> 30 degrees <=> \frac{\pi}{6} <=> \frac{\pi}{6}\text{ radians} <=> 30\degree <#> 60^\circ <#> \frac{\pi}{3} <#> 30\text{ radians} <#> 3^\circ <#> 30\%
\frac{\pi}{4} <=> 45^\circ <=> \pi/4 <=> 0.25\pi <=> \frac14\pi <#> 45 <#> 4/\pi <#> \frac\pi2 <#> 90^\circ
\angle ABC <=> \angle ABC <=> ∠ABC <#> \angle ABD <#> \angle A <#> 90^\circ
20^\circ\text{C} <=> 20^\circ C <=> 20 <=> 20°C <#> 20^\circ F <#> 25^\circ C
# LaTeX spellings
\frac{1}{2}x+3 <=> \dfrac{1}{2}x + 3 <=> \displaystyle\frac{1}{2}x+3 <=> \frac{1}{2}\,x+3 <=> \left(\frac{1}{2}\right)x+3 <=> \textstyle \frac12 x+3 <=> $\frac{x}{2}+3$ <=> \(\frac{x}{2}+3\) <=> \[\frac{x}{2}+3\] <#> \frac{1}{2}(x+3) <#> \frac12x-3 <#> \frac{1}{2x}+3
\left\{1,\,2\right\} <=> \lbrace 1,2\rbrace <=> \{2,1\} <#> \{1\} <#> (1,2)
\mathbf{x}+1 <=> x+1 <=> \mathrm{x}+1 <=> \boldsymbol{x}+1 <#> x <#> x-1
\sqrt{x+1} <=> \sqrt {x+1} <=> (x+1)^{\frac12} <=> (x+1)^{0.5} <=> sqrt(x+1) <#> \sqrt{x}+1 <#> \sqrt x+1 <#> (x+1)^2
\lfloor x\rfloor <=> \left\lfloor x\right\rfloor <=> ⌊x⌋ <#> \lceil x\rceil <#> x <#> [x]
\alpha+\beta <=> \beta+\alpha <=> α+β <#> \alpha\beta <#> \alpha-\beta <#> a+b
x_1+x_2 <=> x_{1}+x_{2} <=> x_2+x_1 <=> x₁+x₂ <#> x_1+x_3 <#> x1+x2 +1 <#> 2x_1
# sums, factorials and binomials
120 <=> 5! <=> \binom{10}{3} <=> 5\cdot4\cdot3\cdot2 <=> \frac{6!}{6} <#> 4! <#> 5 <#> \binom{10}{4} <#> 5!!
\binom{5}{2} <=> 10 <=> \dbinom{5}{2} <=> \frac{5!}{2!3!} <=> {5 \choose 2} <#> \binom{2}{5} <#> \frac52 <#> 20
n! <=> n\cdot(n-1)! <=> n(n-1)! <#> (n-1)! <#> n <#> n^n <#> (n+1)!
\sum_{k=1}^{10} k <=> 55 <=> \frac{10\cdot11}{2} <#> 45 <#> 10 <#> 56
\frac{2024!}{2023!} <=> 2024 <#> 2023 <#> 1 <#> 2025
# ratios, bases and moduli
3:4 <=> 3 : 4 <=> 6:8 <=> \frac34 <=> 3/4 <=> 0.75 <=> 3\colon4 <#> 4:3 <#> 34 <#> 3:5 <#> 3.4
1:2:3 <=> 2:4:6 <=> 1 : 2 : 3 <#> 1:3:2 <#> 1:2 <#> 1:2:4
101_2 <=> 101_{2} <=> 101_{\text{two}} <=> 0101_2 <#> 101 <#> 101_3 <#> 5_{10} <#> 110_2
2516_8 <=> 2516_{8} <=> 2516_{\text{eight}} <#> 2516_7 <#> 2516 <#> 2561_8
3 \pmod{5} <=> 3 \bmod 5 <=> 8\pmod 5 <=> 3 <=> x\equiv3\pmod5 <#> 3\pmod{7} <#> 2\pmod5 <#> 5
# constants
\pi <=> 3.14159265 <=> π <=> \frac{2\pi}{2} <=> 3.141593 <#> 3.14 <#> \frac{22}{7} <#> 2\pi <#> 3 <#> p
\infty <=> ∞ <=> +\infty <=> \text{infinity} <=> infinity <#> -\infty <#> 0 <#> 10^{100} <#> 8
-\infty <=> -∞ <=> \text{negative infinity} <#> \infty <#> 0
e <=> 2.718281828 <=> \exp(1) <=> e^1 <#> 2.718 <#> 2.72 <#> e^2 <#> \pi
9\pi <=> 9 \pi <=> \pi\cdot 9 <=> 9π <=> 28.27433388 <=> 9\pi\text{ cm}^2 <#> 9 <#> 28.27 <#> 3\pi <#> 9+\pi <#> 81\pi
\frac{1+\sqrt5}{2} <=> 1.6180339887 <=> \frac{2}{\sqrt5-1} <=> 2\cos 36^\circ <#> 1.618 <#> \frac{1-\sqrt5}{2} <#> \frac{\sqrt5}{2}
# calculus
x^2+C <=> C+x^2 <=> x^2+c <=> x^2+1+C <=> x\cdot x+C <#> x^2 <#> 2x+C <#> x^3+C
-\cos x+C <=> C-\cos x <=> -\cos(x) + C <#> \cos x+C <#> \sin x+C <#> -\cos x
\frac{1}{x+1} <=> (x+1)^{-1} <=> 1/(x+1) <#> \frac1x+1 <#> 1/x+1 <#> \ln(x+1)
# prose around an answer
7 <=> The answer is 7 <=> The final answer is $7$. <=> Answer: 7 <=> answer: $7$ <=> Therefore, the answer is \boxed{7}. <=> <answer>7</answer> <=> So the answer is 7. <=> The answer is: $\boxed{7}$ <#> The answer is 8 <#> not 7 <#> 7 or 8 <#> The answer is \boxed{8}, not 7 <#> 7 is not the answer <#> \boxed{7 <#> \boxed{} 7 <#> final answer is $7$ but \boxed{8}
12 <=> First, \boxed{3}. Then we multiply by four, so the final answer is \boxed{12} <=> \boxed{12} \boxed{12} <=> \fbox{12} <=> \boxed{\text{12}} <=> \boxed{12 \text{ apples}} <=> \boxed 7 then finally \boxed{12} <#> \boxed{1}\boxed{2} <#> \boxed{12} or \boxed{13} <#> \boxed{13} or \boxed{12} <#> \boxed{11, 12, 13} <#> \boxed{12 \text{ or } 13} <#> \boxed{12 <#> \boxed{10} \boxed{11} \boxed{12}
# mixed forms
\frac{\pi}{3} <=> 60^\circ <=> \frac{\pi}{3}\text{ rad} <=> π/3 <=> \frac13\pi <=> \dfrac{\pi }{3}
16 <=> $16 <=> \$16 <=> 16 dollars <=> USD 16 <=> 16 USD
\frac{5}{2}\text{ hours} <=> 2\text{ hours }30\text{ minutes} <=> 2.5 hours <=> 150 minutes <=> 2 hours and 30 minutes
x^2+2x+1=0 <=> (x+1)^2=0 <#> x=-1 <#> x^2+2x=0
\frac{1}{2}\ln 3 <=> \ln\sqrt{3} <=> \ln(3)/2 <#> \ln\frac32
2^{n}-1 <=> 2^n-1 <=> -1+2^n <#> 2^{n-1}
(-1)^n <=> \cos(n\pi) <=> (-1)^{n} <=> (-1)^{n+2} <#> -1^n <#> (-1)^{n+1}
\frac{x-1}{x+1} <=> 1-\frac{2}{x+1} <=> (x-1)/(x+1) <#> x-1/x+1 <#> \frac{x+1}{x-1}
6.0 \times 10^{24} kg <=> 6e24 <=> 6\times10^{24}\text{ kg} <#> 6\times10^{25}\text{ kg}
\text{(C)} <=> C <=> \boxed{\text{C}} <=> (c) <=> **C** <=> \textbf{C} <#> (A) <#> A and C
yes <=> \boxed{\text{Yes}} <=> **Yes** <#> No
x = 2, y = -1 <=> (2,-1) <=> (x, y) = (2, -1) <=> x=2 and y=-1 <=> y=-1, x=2 <#> (-1,2) <#> x=-2,y=1
\frac{3\sqrt{2}}{2} <=> \frac{3}{\sqrt2} <=> 3/\sqrt{2} <=> \frac{3}{2}\sqrt2 <=> 1.5\sqrt2 <=> 2.1213203435 <#> \frac{3\sqrt2}{4}
\{x \in \mathbb{R} : x > 2\} <=> (2,\infty) <=> x>2 <=> \{x \mid x>2\} <=> \{ x : x > 2 \} <#> x\ge 2
\left(-\infty, -2\right] \cup \left[2, \infty\right) <=> |x|\ge 2 <=> x\le -2 \text{ or } x\ge 2 <#> |x|\le2
1.\overline{27} <=> \frac{14}{11} <=> 1.272727... <=> 1.27272727272727 <#> 1.27
\frac{22}{7} <=> 3\frac17 <=> 3.142857142857 <#> \pi <#> 3.14
100\pi \text{ cm}^2 <=> 100\pi <=> 314.159265 <=> 100 \pi <#> 100 <#> 314
\sqrt[4]{x} <=> x^{1/4} <=> \sqrt{\sqrt{x}} <#> \sqrt{x} <#> x^4
3^{\frac{2}{3}} <=> \sqrt[3]{9} <=> 9^{1/3} <=> 3^{2/3} <#> \sqrt{27} <#> 3^2/3
a^2-b^2 <=> (a-b)(a+b) <=> (a+b)(a-b) <#> (a-b)^2 <#> b^2-a^2
\frac{a}{b} <=> a/b <=> a\cdot b^{-1} <=> \frac{-a}{-b} <#> b/a <#> \frac{a}{-b}
\cot x <=> \frac{1}{\tan x} <=> \frac{\cos x}{\sin x} <#> \tan x
\sin(x+y) <=> \sin x\cos y+\cos x\sin y <#> \sin x+\sin y
10:30 <=> 10:30 \text{ a.m.} <=> 10:30 AM <#> 10:31 <#> 11:30
7\frac{1}{2} <=> 7.5 <=> 15/2 <=> 7 1/2 <#> 7/2
7\frac{1}{2} <#> \frac{7}{2} <#> 3.5 <#> 6.5
-\infty < x < \infty <=> \mathbb{R} <=> (-\infty,\infty) <=> x \in \mathbb R
2,3,5,7 <=> 7,5,3,2 <=> \{2,3,5,7\} <=> 2, 3, 5, and 7 <=> 2,3,5 and 7 <#> 2,3,5 <#> (2,3,5,8)
\text{Both A and B} <=> both A and B <#> A <#> B
(2,3] <=> 2<x\leq 3 <=> x\in(2,3] <=> \{x:2<x\le3\} <#> [2,3)
\frac{d}{dx} x^2 <=> 2x <#> x
\int_0^1 x\,dx <=> \frac12 <=> 0.5 <#> 1
\lim_{x\to0}\frac{\sin x}{x} <=> 1 <#> 0
\sum_{n=1}^{\infty}\frac{1}{n^2} <=> \frac{\pi^2}{6} <#> 1
\frac{\sqrt{2}+\sqrt{6}}{4} <=> \sin 75^\circ <=> \cos 15^\circ <=> \frac{\sqrt6+\sqrt2}{4} <#> \cos 75^\circ
0.25 <=> \frac{1}{4} <=> 25\% <=> .25 <=> 1/4 <=> 2.5\times10^{-1} <=> \frac14\text{ m} <#> 0.52
1 + 2i <=> 2i+1 <=> 1+2 i <=> 1+2\mathbf{i} <#> 2+i
r=2\cos\theta <=> r = 2 \cos \theta <=> r=2\cos(\theta) <=> 2\cos\theta <#> r=2\sin\theta
\vec{v} = (1,2) <=> (1,2) <=> \langle 1, 2 \rangle <=> <1,2> <#> (2,1)
3\mathbf{i}+4\mathbf{j} <=> 3\hat{i}+4\hat{j} <=> 3\mathbf{i} + 4\mathbf{j} <=> 4\mathbf{j}+3\mathbf{i} <#> 4\mathbf{i}+3\mathbf{j} <#> 7
5\sqrt{3} \text{ cm} <=> 5\sqrt3 <=> 5√3 cm <=> 5 \sqrt{3}cm <=> 8.66025404 \text{ cm} <#> 5\sqrt{3}\text{ m}
$12{,}500 <=> 12500 <=> \$12,500 <=> 12,500.00 <=> 12.5 thousand <#> 1250
1/2 <=> one half <=> \text{one half} <=> half <=> ½ <#> 2
twenty-three <=> 23 <=> Twenty-three <=> twenty three <#> 32
k=3 <=> 3 <=> k = 3 <#> 4
\frac{2}{3}\pi r^3 <=> \frac{2\pi r^3}{3} <=> (2/3)\pi r^3 <#> \frac43\pi r^3
V=\frac{4}{3}\pi r^3 <=> \frac43\pi r^3 <=> V = \frac{4\pi r^3}{3} <#> V=4\pi r^2
x\equiv 2\pmod 3 <=> x\equiv 5 \pmod 3 <=> x \equiv 2 \mod 3 <=> 2 \pmod{3} <#> x\equiv 1\pmod 3
n=2k+1 <=> n = 1+2k <=> 2k+1 <#> n=2k
2x^2-3x+1 <=> (2x-1)(x-1) <=> 1-3x+2x^2 <=> 2(x-\frac12)(x-1) <=> 2x²-3x+1 <#> 2x^2+3x+1
(x-2)^2+(y+3)^2=16 <=> (y+3)^2+(x-2)^2=4^2 <=> x^2-4x+y^2+6y-3=0 <#> (x+2)^2+(y-3)^2=16
f^{-1}(x)=\frac{x-1}{2} <=> \frac{x-1}{2} <=> f^{-1}(x) = (x-1)/2 <#> \frac{x+1}{2}
P(A)=0.3 <=> 0.3 <=> 3/10 <=> 30\% <#> 0.7
\binom{n}{k} <=> \frac{n!}{k!(n-k)!} <=> C(n,k) <=> {n \choose k} <#> \binom{k}{n}
\max(3,5) <=> 5 <#> 3
\gcd(12,18) <=> 6 <#> 36
1 \text{ or } 3 <=> 3 \text{ or } 1 <=> 1, 3 <=> \{1,3\} <#> 1 <#> 13
\pm\frac{\sqrt{3}}{2} <=> \frac{\sqrt3}{2}, -\frac{\sqrt3}{2} <=> \pm \sqrt{3}/2 <=> ±√3/2 <#> \frac{\sqrt3}{2}
2\pi k, k\in\mathbb{Z} <=> 2k\pi, k \in \mathbb{Z} <=> 2\pi k
\frac{\pi}{4}+k\pi <=> k\pi+\frac\pi4 <=> \frac{\pi+4k\pi}{4} <#> \frac\pi4+2k\pi
1.23456789 <=> 1.2345679 <=> 1.234568 <#> 1.2346 <#> 1.23456780
299792458 <=> 2.99792458\times10^8 <=> 299,792,458 <#> 3\times10^8
0.001 <=> 10^{-3} <=> 1\times 10^{-3} <=> 1e-3 <=> 0.1\% <#> 0.01
\left(\frac{1}{2},\frac{\sqrt{3}}{2}\right) <=> (0.5,\sqrt3/2) <=> (\cos60^\circ,\sin60^\circ) <#> (\frac{\sqrt3}2,\frac12)
\frac{1}{x}+\frac{1}{y} <=> \frac{x+y}{xy} <=> 1/x+1/y <#> \frac{2}{x+y} <#> \frac{1}{x+y}
x \neq 2 <=> (-\infty,2)\cup(2,\infty) <=> x\ne 2 <=> \mathbb{R}\setminus\{2\} <=> x<2\text{ or }x>2 <=> \mathbb{R}-\{2\} <#> x=2
y=-\frac{1}{2}x+3 <=> x+2y=6 <=> y=3-\frac{x}{2} <=> y = -0.5x + 3 <=> y=-x/2+3 <#> y=-2x+3
24\text{ square feet} <=> 24\text{ ft}^2 <=> 24 sq ft <=> 24 ft² <=> 24 feet^2 <#> 24\text{ feet}
\text{50 mph} <=> 50 miles per hour <=> 50 mi/h <=> 50 <#> 50 km/h
\text{A, B, D} <=> A, B, D <=> B, A, D <=> A,B,D <=> A, B and D <#> A, B <#> A,B,C
1.5 <#> 15
\dfrac{12}{5} <=> 2.4 <=> 2\frac25 <=> 12\div5 <=> 12/5 <=> \frac{12}{5}. <=> {12}/{5} <#> 5/12
\overline{AB} <=> AB <=> \overline{AB} <#> \overline{AC} <#> AC
36^{\circ} <=> 36 \text{ deg} <=> 36º <=> 36˚ <=> 36^∘ <=> 36 degrees <#> 36'
\begin{bmatrix} -1 & 0 \\ 0 & -1\end{bmatrix} <=> -\begin{bmatrix}1&0\\0&1\end{bmatrix} <=> \left[\begin{matrix}-1&0\\0&-1\end{matrix}\right] <#> \begin{bmatrix}1&0\\0&1\end{bmatrix}
\frac{1}{2}\begin{pmatrix}2\\4\end{pmatrix} <=> \begin{pmatrix}1\\2\end{pmatrix} <#> \begin{pmatrix}2\\4\end{pmatrix}
\begin{cases}1&x>0\\0&x\le0\end{cases} <=> \begin{cases}1, & x>0\\0, & x\leq 0\end{cases} <#> \begin{cases}0&x>0\\1&x\le0\end{cases}
t\in\{1,2\} <=> \{1,2\} <=> 1,2 <=> t=1\text{ or }t=2 <#> 1
8! <=> 40320 <=> 8\cdot7! <#> 8 <#> 7!
\log_{10} 2 <=> \log 2 <=> \frac{\ln2}{\ln10} <#> \ln 2
\text{undefined} <=> undefined <=> Undefined <#> 0 <#> \infty
\infty <#> converges
11111 <=> 11,111 <=> 11\,111 <#> 1111 <#> 1\,11\,11 <#> 1 1111
-\frac{b}{2a} <=> \frac{-b}{2a} <=> -b/(2a) <#> -b/2a <#> \frac{b}{2a}
\frac{3}{2} <=> 1.5 <=> 1\frac{1}{2} <=> \frac{3}{2}. <=> $\frac{3}{2}$ <=> \frac{3}{2}\text{ units} <=> 3:2 <=> x=\frac32 <=> \boxed{\dfrac{3}{2}} <#> 3/20 <#> 1.05 <#> 13/2
\left(\frac{3}{5}, \frac{8}{3}\right) <=> (3/5, 8/3) <=> (0.6, \frac83) <=> \left( \frac{3}{5} , \frac{8}{3} \right) <#> (\frac83,\frac35) <#> (3/5, 3/8)
p - q <=> -q+p <=> p-q <#> q-p <#> p+q
x^3+3x-6 <=> -6+3x+x^3 <=> x^{3}+3x-6 <#> x^3-3x-6
6 - 5i <=> 6-5i <=> -5i+6 <=> 6 + (-5)i <=> 6-5\imath <#> 6+5i
\frac{1}{4}(1+i) <=> \frac{1+i}{4} <=> 0.25+0.25i <=> \frac14+\frac{i}{4} <#> \frac{1}{4}+i
\sqrt{51} <=> 51^{0.5} <=> \sqrt{51}\text{ units} <=> 7.14142842854 <#> 7.14
\text{June 20} <=> June 20 <=> June 20th <#> June 21
70 \sqrt{2} <=> 70\sqrt2 <=> 98.9949493661 <#> 70\cdot2
[-2,7] <=> -2\le x\le 7 <=> [-2, 7] <=> \{x\mid -2\le x\le7\} <=> x \in \left[-2,7\right] <#> (-2,7) <#> [-2,7)
-\frac{35}{9} <=> -3\frac{8}{9} <=> -35/9 <=> \frac{35}{-9} <=> -3.88888889 <#> \frac{35}{9}
(-2,1) <=> (-2, 1) <=> -2<x<1 <=> x\in(-2,1) <#> [-2,1] <#> (1,-2)
\text{(D)} <=> D <=> (D) <=> \text{D} <=> D. 42 <=> **D** <=> The correct answer is (D) <=> The answer is (D). <=> the answer is $\boxed{D}$ <=> Answer: D <#> A <#> E
5.4 \text{ cents} <=> 5.4 <=> 5.4¢ <=> \$0.054 <#> \$5.4
\$18.90 <=> 18.9 <=> \$18.9 <=> 18.90 dollars <#> 18.09
10\% <=> 10 <=> 0.1 <=> 10 \% <=> ten percent <=> \frac{1}{10} <#> 1\% <#> 100\%
1:4 <=> 1/4 <=> 0.25 <=> 2:8 <=> 1 : 4 <#> 4:1
\frac{9}{19} <=> 9/19 <=> 0.4736842105 <#> 0.47
\left[ -\frac{1}{3}, \infty \right) <=> x\ge-\frac13 <=> [-1/3,\infty) <=> [-\frac13, +\infty) <#> (-\frac13,\infty)
\begin{pmatrix} 1/3 \\ 2/3 \end{pmatrix} <=> \begin{pmatrix} \frac{1}{3} \\ \frac{2}{3} \end{pmatrix} <=> \begin{bmatrix} 1/3 \\ 2/3 \end{bmatrix} <=> \frac{1}{3}\begin{pmatrix}1\\2\end{pmatrix} <=> \langle\frac13,\frac23\rangle <=> [1/3, 2/3] <#> \begin{pmatrix} 2/3 \\ 1/3 \end{pmatrix}
\begin{pmatrix} 1 & 2 & 3 \end{pmatrix} <=> (1,2,3) <=> [1,2,3] <=> \begin{bmatrix}1&2&3\end{bmatrix} <#> \begin{pmatrix}1\\2\\3\end{pmatrix} <#> (3,2,1)
2 + \sqrt{3} <=> \sqrt3+2 <=> \frac{1}{2-\sqrt3} <=> 3.7320508 <#> 2-\sqrt3 <#> 2\sqrt3
x \in (-\infty, 0) \cup (2, \infty) <=> x<0 \text{ or } x>2 <=> (-\infty,0)\cup(2,\infty) <=> x<0, x>2 <=> x > 2 \text{ or } x < 0 <=> (2,\infty) \cup (-\infty, 0) <#> 0<x<2 <#> x<0 \text{ and } x>2
y = 3x - 2 <=> 3x-y-2=0 <=> y=-2+3x <=> 3x-2 <#> y=3x+2 <#> y=2-3x
x = \frac{-b \pm \sqrt{b^2-4ac}}{2a} <=> \frac{-b \pm \sqrt{b^2 - 4ac}}{2a} <=> x=\frac{-b+\sqrt{b^2-4ac}}{2a},\frac{-b-\sqrt{b^2-4ac}}{2a} <#> \frac{b\pm\sqrt{b^2-4ac}}{2a}
\sin\theta <=> \sin(\theta) <=> sin θ <=> sin(theta) <=> \cos(\frac{\pi}{2}-\theta) <#> \cos\theta
\frac{\pi^2}{6} <=> \pi^2/6 <=> (\pi^2)/6 <=> 1.6449340668 <#> \frac{\pi}{6}
4\sqrt{3} - 6 <=> -6+4\sqrt3 <=> 2(2\sqrt3-3) <#> 6-4\sqrt3
50 \text{ miles per hour} <=> 50 mph <=> 50\ \text{mph} <=> 50 <#> 50\text{ km/h}
1,2,4,8 <=> 8,4,2,1 <=> 1, 2, 4, and 8 <=> \{1,2,4,8\} <#> 1,2,4
(3, -1, 2) <=> x=3,y=-1,z=2 <=> x = 3, y = -1, z = 2 <=> (3,-1,2) <#> x=3,y=2,z=-1
a_n = 2^{n-1} <=> 2^{n-1} <=> a_n=2^{n-1} <=> \frac{2^n}{2} <#> 2^n-1
\ln|x|+C <=> \ln(|x|)+C <=> C+\ln|x| <=> \ln |x| + c <#> \ln|x| <#> \frac1x+C
e^{-x} <=> \frac{1}{e^x} <=> \exp(-x) <=> (1/e)^x <#> -e^x <#> e^x
\frac{\ln 2}{3} <=> \frac13\ln2 <=> \ln\sqrt[3]{2} <=> \ln(2)/3 <#> \ln\frac23
1024_{5} <=> 1024_5 <=> 1024_{\text{five}} <#> 1024_6 <#> 1024
\frac{n!}{(n-k)!} <=> \frac{n!}{(n-k)!} <=> n!/(n-k)! <#> \frac{n!}{k!}
3.0 \times 10^8 \text{ m/s} <=> 3\times10^8 <=> 300000000 m/s <=> 3e8 m/s <#> 3\times10^8\text{ km/s}
12 \text{ sq. in.} <=> 12 \text{ square inches} <=> 12 in^2 <=> 12 <#> 12\text{ in}
100^\circ\text{F} <=> 100^\circ F <=> 100 <#> 100^\circ\text{C}
\frac{x^2}{16} - \frac{y^2}{9} = 1 <=> 9x^2-16y^2=144 <=> \frac{x^2}{16}=1+\frac{y^2}{9} <#> 9x^2+16y^2=144
\text{True} <=> true <=> TRUE <#> False
\text{2 and 3} <=> 2,3 <=> 3 and 2 <#> 23
\boxed{5} <=> 5 <=> \boxed{5} <#> 6
-1 \leq x < 3 <=> [-1,3) <=> -1≤x<3 <=> 3>x\ge-1 <#> (-1,3)
|x-2|<3 <=> -1<x<5 <=> (-1,5) <=> |2-x|<3 <#> -5<x<1
\sqrt{2}/2 <=> \frac{1}{\sqrt{2}} <=> \frac{\sqrt2}{2} <=> 0.70710678 <=> 2^{-1/2} <=> \sin45^\circ <#> \sqrt{2/4}+1
x^{2/3} <=> \sqrt[3]{x^2} <=> (\sqrt[3]{x})^2 <=> (x^2)^{1/3} <#> \sqrt{x^3}
\frac{a}{1-r} <=> a/(1-r) <=> \frac{-a}{r-1} <#> \frac{a}{r-1}
\text{no} <=> No <=> no. <#> yes <#> none
4 \text{ and } -4 <=> \pm4 <=> 4, -4 <=> -4, 4 <#> 4
0.\overline{142857} <=> \frac17 <=> 1/7 <=> 0.142857142857 <=> 0.142857\ldots <#> 0.14
(x-3)(x+3) <=> x^2-9 <=> x^2 - 9 <=> -(3-x)(x+3) <#> (x-3)^2
2^{3x} <=> 8^x <=> (2^x)^3 <#> 2^3x <#> 6^x
\log_b(xy) <=> \log_b x+\log_b y <=> \log_b(x)+\log_b(y) <#> \log_b x\cdot\log_b y
13 \text{ or } 14 <=> 13, 14 <=> 14 or 13 <#> 13 <#> 14
0 < x \leq 5 <=> (0,5] <=> x \in (0, 5] <=> 0<x\le5 <#> [0,5)
-7 < y < 7 <=> |y|<7 <=> (-7,7) <=> y\in(-7,7) <#> |y|\le7 <#> -7<x<7
\frac{\sqrt{6}-\sqrt{2}}{4} <=> \sin15^\circ <=> \frac{\sqrt2(\sqrt3-1)}{4} <#> \cos15^\circ
n=3 \text{ or } n=5 <=> 3,5 <=> n=5,3 <=> n \in \{3,5\} <#> 3
1 \frac{2}{3} \text{ cups} <=> 5/3 <=> 1\frac23 <=> 1 2/3 cups <=> \frac53\text{ cups} <#> 2/3
45^{\circ} <=> 45^\circ <=> 45 <=> 45^o <=> 45 degrees <=> \frac{\pi}{4} <#> 135^\circ
\text{The limit does not exist} <=> DNE <=> does not exist <=> \text{Does not exist} <#> 0
\{2, 3\} \cup \{5\} <=> \{2,3,5\} <#> \{2,3\}
[0, \infty) <=> x\ge0 <=> \{x : x \ge 0\} <=> [0,+\infty) <#> (0,\infty)
3x^2 \, dx <=> 3x^2dx <#> 3x^2 \, dy
y' = 2x <=> y'=2x <=> 2x <#> y=2x^2
\overrightarrow{AB} <=> \vec{AB} <=> \overrightarrow{AB} <#> \overrightarrow{BA}
2.50 <=> 2.5 <=> \$2.50 <=> 5/2 <=> 2 1/2 <#> 25 <#> 2.05
1.2 \times 10^{-5} <=> 0.000012 <=> 1.2e-5 <=> 12\times10^{-6} <=> 1.2 x 10^{-5} <=> 1.2*10^-5 <#> 1.2\times10^{5}
12 <=> The total number of apples is 12. <=> The area is $12$. <=> Thus, $x = 12$. <=> So we get 12. <=> Therefore, the value of $x$ is $12$. <=> There are 12 ways <=> The total is $12$ dollars. <=> Hence x = 12 <#> The total number of apples is 13. <#> The total is not 12. <#> The area is less than 12 <#> The answer is 12 or 13. <#> Thus, $x = -12$. <#> it is at least 12 <#> The answer is between 11 and 13 <#> No answer, 12 is wrong
17 <=> 17 \, <=> \mathbf{17} <=> {17} <=> ((17)) <=> \text{17} <=> \mathrm{17} <=> 17\, . <=> $17$. <=> \[17\] <=> \( 17 \) <=> 17\text{.} <=> \textbf{17} <=> seventeen <=> **17** <=> = 17 <=> \mathbf{17}. <=> `17` <#> 71 <#> 1.7
-5 <=> -5 <=> - 5 <=> (-5) <=> −5 <=> –5 <=> negative 5 <=> minus 5 <=> \text{-}5 <=> -\,5 <#> 5
1/3 <=> \frac{1}{3} <=> 1/3 <=> ⅓ <=> 0.\overline{3} <=> 0.\bar{3} <=> .\overline{3} <=> 0.3\overline{3} <=> 0.333\overline{3} <=> 0.3̅ <=> one third <=> one-third <=> 33\frac{1}{3}\% <#> 0.3 <#> 33\% <#> 3
\frac{7}{12} <=> \frac{14}{24} <=> 7/12 <=> \frac{7}{12}\; <=> \left(\frac{7}{12}\right) <=> \frac {7} {12} <=> \frac{ 7 }{ 12 } <=> 7 / 12 <=> 0.58333333 <=> 0.58\overline{3} <#> 12/7
1{,}000{,}000 <=> 1000000 <=> 1 000 000 <=> 1\,000\,000 <=> 1\ 000\ 000 <=> 1.0\times10^6 <=> one million <=> 1,000,000.00 <=> 10^{6} <=> 1'000'000
2^{31}-1 <=> 2147483647 <=> 2,147,483,647 <=> 2^31-1 <#> 2^{30} <#> 2147483648
\frac{10!}{5!5!} <=> 252 <=> \binom{10}{5} <=> {10\choose 5} <=> \tbinom{10}{5} <#> 250
\sqrt[3]{2} <=> 2^{1/3} <=> 2^{\frac13} <=> \sqrt[3]2 <=> ³√2 <=> cbrt(2) <=> 1.25992105 <#> \sqrt2
3\sqrt{5} <=> \sqrt{45} <=> 3 \sqrt {5} <=> 3*sqrt(5) <=> 3√5 <=> 3 \cdot \sqrt{5} <=> \sqrt5\cdot3 <=> 3\sqrt{5}\text{ units} <=> 3(5)^{1/2} <#> 5\sqrt3
\frac{-3+\sqrt{17}}{4} <=> \frac{\sqrt{17}-3}{4} <=> (-3+\sqrt{17})/4 <=> -\frac34+\frac{\sqrt{17}}4 <=> \frac{2}{3+\sqrt{17}} <#> \frac{-3-\sqrt{17}}{4}
i <=> \sqrt{-1} <=> 0+1i <=> i^{5} <=> e^{i\pi/2} <=> \mathrm{i} <=> 1i <=> ⅈ <#> -i
(1+i)^8 <=> 16 <=> 16+0i <=> ((1+i)^2)^4 <#> -16
2\left(\cos\frac{\pi}{3}+i\sin\frac{\pi}{3}\right) <=> 1+i\sqrt3 <=> 1+\sqrt{3}i <=> 2e^{i\pi/3} <=> 2 \operatorname{cis} 60^\circ <=> 2\text{cis}(60^\circ) <=> 2(\cos 60^\circ + i\sin 60^\circ) <#> \sqrt3+i
\tan^{-1}\left(\frac{3}{4}\right) <=> \arctan\frac34 <=> \arctan(0.75) <=> \operatorname{arctan}(3/4) <=> atan(3/4) <=> \arcsin\frac35 <#> \tan\frac34
\log_{10} 1000 <=> 3 <=> \log 1000 <=> \lg 1000 <=> log(1000) <#> 1000
\log_4 9 <=> \log_2 3 <=> \frac{\log 9}{\log 4} <=> \log_{2}(3) <=> \frac{\ln3}{\ln2} <#> \log_9 4
\frac{1}{\sin x} <=> \csc x <=> 1/\sin(x) <=> (\sin x)^{-1} <=> \csc(x) <#> \sin^{-1}x
\sin^2(x) <=> \sin(x)^2 <=> (\sin(x))^2 <=> \sin^2 x <=> 1-\cos^2 x <=> sin^2(x) <#> \sin(x^2)
\langle 3,-2\rangle <=> (3,-2) <=> <3,-2> <=> \begin{pmatrix}3\\-2\end{pmatrix} <=> \left\langle 3, -2 \right\rangle <=> [3,-2] <=> \left<3,-2\right> <#> (-2,3)
\begin{bmatrix} 2 & -1 \\ 0 & 3 \end{bmatrix} <=> \begin{pmatrix} 2 & -1 \\ 0 & 3 \end{pmatrix} <=> \left[\begin{array}{rr} 2 & -1 \\ 0 & 3 \end{array}\right] <=> [[2, -1], [0, 3]] <=> \left[ \begin{matrix} 2 & -1 \cr 0 & 3 \end{matrix} \right] <=> \begin{bmatrix} 2 & -1 \\[4pt] 0 & 3 \end{bmatrix} <=> \begin{bmatrix} 4/2 & -1 \\ 0 & \sqrt9 \end{bmatrix} <#> \begin{bmatrix} 2 & 0 \\ -1 & 3 \end{bmatrix}
\begin{vmatrix}1&2\\3&4\end{vmatrix} <=> -2 <#> 2
x=\frac{1\pm\sqrt{5}}{2} <=> \frac{1\pm\sqrt5}{2} <=> \frac{1}{2}\pm\frac{\sqrt{5}}{2} <=> x=\frac{1+\sqrt5}{2} \text{ or } x=\frac{1-\sqrt5}{2} <=> x_1=\frac{1+\sqrt5}{2}, x_2=\frac{1-\sqrt5}{2} <=> x_{1,2}=\frac{1\pm\sqrt5}{2} <=> \frac{1 ± √5}{2} <=> (1±√5)/2 <=> x = \frac{1 + \sqrt{5}}{2}, \frac{1 - \sqrt{5}}{2} <#> x=\frac{1+\sqrt5}{2}
2,-3 <=> x=2, x=-3 <=> x = 2 \text{ and } x = -3 <=> x \in \{2, -3\} <=> \{-3, 2\} <=> x=2\lor x=-3 <=> -3 \text{ or } 2 <=> x_1=2,x_2=-3 <=> x = 2 or x = -3 <=> $x=2$ or $x=-3$ <=> $2$ and $-3$ <=> 2 & -3 <=> \begin{cases} x=2\\ x=-3\end{cases} <#> 2,3
\{1, 3, 5, 7, 9\} <=> \{9,7,5,3,1\} <=> 1,3,5,7,9 <=> \left\{ 1, 3, 5, 7, 9 \right\} <=> \{1,3,5,7\} \cup \{9\} <#> \{1,3,5,7\}
(-\infty, -3) \cup (-3, 3) \cup (3, \infty) <=> x\neq\pm3 <=> \mathbb{R} \setminus \{-3, 3\} <=> x \ne 3, x \ne -3 <=> x \neq 3 \text{ and } x\neq -3 <=> \mathbb{R}\backslash\{\pm3\} <=> \{x \in \mathbb{R} \mid x \neq \pm 3\} <#> (-3,3)
[4,\infty) <=> x \geq 4 <=> [4, +\infty) <=> 4\leq x <=> x\geqslant4 <=> \{x|x\ge4\} <=> x ∈ [4, ∞) <=> 4 \le x < \infty <=> [4,∞[ <#> (4,\infty)
(0,1) <=> 0<x<1 <=> \{x : 0<x<1\} <=> x \in (0,1) <=> ]0,1[ <=> 1>x>0 <#> [0,1]
x^2 + y^2 - 4x = 0 <=> (x-2)^2+y^2=4 <=> x^2+y^2=4x <=> x^2-4x+y^2=0 <=> y^2=4x-x^2 <#> (x+2)^2+y^2=4
y - 3 = 2(x - 1) <=> y=2x+1 <=> 2x-y+1=0 <=> y = 2x + 1 <#> y=2x-1
a < b < c <=> c>b>a <=> a<b<c <#> a<c<b
x \le -1 \text{ or } x \ge 4 <=> (-\infty,-1]\cup[4,\infty) <=> x\leq-1, x\geq4 <=> x≤-1 or x≥4 <=> x \in (-\infty,-1] \cup [4, \infty) <#> -1\le x\le4
5 \text{ feet } 3 \text{ inches} <=> 63 \text{ inches} <=> 5 feet 3 inches <=> 5.25\text{ feet} <=> 5\text{ ft }3\text{ in} <#> 5.3 \text{ feet}
1\text{ hour and }30\text{ minutes} <=> 90\text{ minutes} <=> 1.5\text{ hours} <=> 1 hour 30 minutes <#> 1.3\text{ hours}
\$1.25\text{ million} <=> 1250000 <=> \$1,250,000 <=> 1.25\times10^6 <=> 1.25 million dollars <#> 125000
75\text{ kg} <=> 75 <=> 75 kilograms <=> 75000\text{ g} <=> 75\,\text{kg} <=> 75~\mathrm{kg} <=> 75\ \mathrm{kg} <=> 75 Kg <#> 75\text{ lb} <#> 75\text{ g}
9.8\ \mathrm{m/s^2} <=> 9.8 <=> 9.8 m/s^2 <=> 9.8\,\text{m}/\text{s}^2 <=> 9.8 \text{ meters per second squared} <=> 9.8\text{ m s}^{-2} <=> 9.8 m/s² <#> 9.8\text{ m/s}
25\text{ cm}^3 <=> 25\text{ cubic centimeters} <=> 25 cm³ <=> 25\text{ mL} <=> 25 cm^3 <=> 25 \ \text{cm}^{3} <#> 25\text{ cm}^2
3.5\% <=> 0.035 <=> 3.5 <=> 3.5 percent <=> 3.50\% <=> \frac{7}{200} <=> 3\frac12\% <#> 0.35
\frac{2\pi}{3} <=> 120^\circ <=> 2\pi/3 <=> \frac23\pi <=> \frac{2}{3}\pi\text{ radians} <=> 2π/3 <=> 2.0943951 <#> 240^\circ
E <=> (E) <=> \text{(E)} <=> E) none of these <=> \textbf{(E) } 12 <=> \mathrm{(E)} <=> The answer is E. <=> [E] <=> {E} <=> \boxed{\textbf{(E)}} <=> e <=> Option E: none <=> (e) <#> (D) <#> \text{(A)}
\text{Tuesday} <=> Tuesday <=> tuesday <=> **Tuesday** <=> "Tuesday" <=> Tuesday. <=> `Tuesday` <=> \textit{Tuesday} <=> It is Tuesday
\text{isosceles} <=> isosceles <=> Isosceles <#> scalene
\text{increasing} <=> increasing <=> Increasing. <=> It is increasing <#> decreasing <#> not increasing
0 <=> zero <=> 0.00 <=> 0\% <=> -0 <=> \frac{0}{5} <=> \sin 0 <=> 0^\circ <=> 1-1 <#> none <#> 1
10 <=> 10. <=> 10.0 <=> ten <=> 1e1 <=> 10^1 <=> 1\times 10^1 <=> X=10 <=> 10!/9! <=> |{-10}| <=> \lvert -10 \rvert <=> \left|-10\right| <=> \lceil 9.5\rceil <=> \max\{3,10\} <=> \gcd(20,30) <#> 01 <#> 100
5\times 10^{-7} <=> 5e-7 <=> 0.0000005 <=> 5 \cdot 10^{-7} <=> 5*10^(-7) <=> 5E-07 <=> 5 × 10⁻⁷ <#> 5\times10^{-6}
k(k+1) <=> k^2+k <=> (k+1)k <=> k·(k+1) <=> k\times(k+1) <=> k*(k+1) <#> k^2+1
\frac{x+2}{x-2} <=> (x+2)/(x-2) <=> \frac{(x+2)}{(x-2)} <=> 1+\frac{4}{x-2} <=> \frac{-x-2}{2-x} <#> \frac{x-2}{x+2}
x^{10}y^{5} <=> (x^2y)^5 <=> y^5x^{10} <=> x^10*y^5 <=> x^{10} \cdot y^{5} <#> x^5y^{10}
f(x) = \frac{1}{x} <=> \frac1x <=> 1/x <=> f(x)=x^{-1} <=> y=\frac{1}{x} <=> f : x \mapsto \frac1x <#> f(x)=x
S_n = n^2 <=> n^2 <=> S_{n}=n^{2} <=> S(n)=n^2 <#> n^3
\int x\,dx <=> \frac{x^2}{2}+C <#> x^2
\frac{\partial f}{\partial x} <=> \frac{\partial f}{\partial x} <#> \frac{\partial f}{\partial y}
\lim_{n\to\infty}\left(1+\frac1n\right)^n <=> e <#> 1
A=\{1,2\} <=> \{1,2\} <=> A = \{2, 1\} <#> \{1\}
a=3, b=4, c=5 <=> (3,4,5) <=> a=3; b=4; c=5 <=> c=5,b=4,a=3 <=> (a,b,c)=(3,4,5) <=> a = 3, b = 4, \text{ and } c = 5 <=> 3,4,5 <#> (5,4,3)
36\pi <=> 36 \pi <=> 36π <=> 36 pi <=> \pi \cdot 36 <=> 36\pi \text{ square units} <=> 113.097336 <=> 36*pi <#> 36 <#> 113
1:03 \text{ PM} <=> 1:03 <=> 1:03 pm <#> \frac13 <#> 2:06 \text{ PM}
2:30 \text{ PM} <=> 2:30 pm <=> 2:30 <=> 2:30 p.m. <=> 2\colon 30 \text{ p.m.} <#> 2:30\text{ AM} <#> 2:31\text{ PM}
\text{April 5} <=> April 5 <=> April 5th <=> april 5 <#> April 6
(x-1)(x-2)(x-3) <=> x^3-6x^2+11x-6 <=> (x-3)(x-1)(x-2) <#> (x+1)(x+2)(x+3)
-\infty <x\le 4 <=> (-\infty,4] <=> x\le4 <#> x<4
\text{All real numbers except } 2 <=> x\ne2 <=> \mathbb{R}\setminus\{2\} <=> all real numbers except 2 <#> \mathbb{R}
\pm 1, \pm 3 <=> 1,-1,3,-3 <=> -3,-1,1,3 <=> \{\pm1,\pm3\} <#> 1,3
12 <=> 12 men <=> 12 boys <=> 12 ways <=> 12 \text{ different ways} <=> \text{Answer: }12 <=> \textbf{Answer: } 12 <=> \underline{12} <=> \text{12 ways} <=> n(A)=12 <=> 12\text{ (units)} <=> 12\ \text{marbles} <=> N=12 <=> \text{The answer is } 12 <=> \text{Total} = 12 <=> 12_{10} <=> \begin{aligned}12\end{aligned} <=> \mathbf{12}\text{ cm} <#> 12x <#> 12! <#> 1/12 <#> \sqrt{12}
15\text{ students} <=> 15 <=> 15 students. <=> fifteen students <=> fifteen <#> 51
5 <=> |3-4i| <=> |3+4i| <=> \sqrt{3^2+4^2} <=> e^{\ln 5} <=> \log_2 32 <=> \binom{5}{1} <=> \lfloor 5.9\rfloor <=> \operatorname{lcm}(1,5) <=> \text{lcm}(1,5) <=> \gcd(10,15) <#> |3|-4
60 <=> P(5,3) <=> \frac{5!}{2!} <=> {}_5P_3 <=> 5\cdot 4\cdot 3 <=> \operatorname{lcm}(12,15,20) <#> \binom53
24 <=> \Gamma(5) <=> 4! <=> 4\times3\times2\times1 <=> 2^3\cdot3 <=> 2^3 \times 3^1 <#> 4!!
2^4 \cdot 3^2 <=> 144 <=> 3^2\cdot 2^4 <=> 2^4\times3^2 <=> 12^2 <=> 2*2*2*2*3*3 <#> 2^4+3^2
\ln^2 x <=> (\ln x)^2 <=> \ln(x)^2 <#> \ln x^2 <#> 2\ln x
\sinh x <=> \frac{e^x-e^{-x}}{2} <=> \sinh(x) <#> \cosh x
\sinh^{-1} x <=> \operatorname{arcsinh} x <=> \ln(x+\sqrt{x^2+1}) <=> \operatorname{arsinh}(x) <#> \frac{1}{\sinh x}
3-4i <=> \overline{3+4i} <=> 3+(-4)i <=> -4i+3 <#> 3+4i
\operatorname{Re}(z) <=> \text{Re}(z) <=> \Re(z) <=> \Re z <#> \Im z
\mathbb{Z} <=> ℤ <=> \Z <=> \text{all integers} <#> \mathbb{N} <#> \mathbb{R}
\mathbb{R}^+ <=> (0,\infty) <=> x>0 <=> \mathbb{R}_{>0} <=> \mathbb{R}_+ <#> [0,\infty)
\{0,1,2,\ldots,9\} <=> \{0,1,2,\dots,9\} <=> \{0, 1, 2, …, 9\} <#> \{0,1,2,9\}
\varphi <=> \phi <#> \psi
\frac{\mathrm{d}y}{\mathrm{d}x}=2x <=> \frac{dy}{dx}=2x <=> 2x <#> x
\vec{a}+\vec{b} <=> \vec{b}+\vec{a} <=> \overrightarrow{a}+\overrightarrow{b} <#> \vec{a}-\vec{b}
\triangle ABC <=> △ABC <#> \triangle ABD
AB=CD <=> CD=AB <=> \overline{AB}=\overline{CD} <#> AB=BC
\alpha=30^\circ <=> 30^\circ <=> α=30° <=> 30 <=> \alpha = 30 degrees <#> \alpha=60^\circ
\theta=\frac{\pi}{6} <=> \frac\pi6 <=> 30^\circ <=> θ = π/6 <#> \frac{\pi}{3}
x=0,\ x=\pi <=> 0,\pi <=> x=\pi, x=0 <=> x \in \{0, \pi\} <=> 0 \text{ and } \pi <#> 0
\frac{\pi}{2}+2\pi k <=> \frac{\pi}{2}+2k\pi <=> 2\pi k+\frac{\pi}{2} <=> \frac{(4k+1)\pi}{2} <#> \frac\pi2+\pi k
(3,\infty) <=> x>3 <=> (3, +\infty) <=> (3,∞) <=> \left(3,\infty\right) <=> 3<x<\infty <=> \{x \mid x > 3\} <=> x \in (3, \infty) <#> [3,\infty)
y=mx+b <=> mx+b=y <=> y=b+mx <#> y=mx-b
x^2=4y <=> y=\frac{x^2}{4} <=> 4y=x^2 <=> y=\frac14x^2 <#> y^2=4x
A=\pi r^2 <=> \pi r^2 <=> A = πr² <=> A=\pi\cdot r^2 <#> 2\pi r
c=\sqrt{a^2+b^2} <=> \sqrt{a^2+b^2} <=> \sqrt{b^2+a^2} <#> a+b
\frac{-b}{2a} <=> -\frac{b}{2a} <=> -b/(2a) <=> \frac{b}{-2a} <#> \frac{b}{2a}
e^{i\theta} <=> \cos\theta+i\sin\theta <=> \exp(i\theta) <#> e^{-i\theta}
\frac{1}{2}mv^2 <=> \frac{mv^2}{2} <=> 0.5mv^2 <=> 1/2 mv^2 <#> mv^2
3.6\times10^{6}\text{ J} <=> 3.6\text{ MJ} <=> 3600\text{ kJ} <=> 3.6e6 <=> 3{,}600{,}000\text{ J} <#> 3.6\times10^5\text{ J}
20\text{ m/s} <=> 72\text{ km/h} <=> 20 <=> 20 m/s <=> 20\,\mathrm{m\,s^{-1}} <=> 20 meters per second <=> 20\ \text{m}\cdot\text{s}^{-1} <#> 20\text{ km/h}
100\text{ g} <=> 0.1\text{ kg} <=> 100 grams <=> 100 g <=> 100 <#> 100\text{ kg}
6\text{ ft} <=> 2\text{ yards} <=> 72\text{ in} <=> 6 feet <#> 6\text{ in}
5\text{ quarts} <=> 5 <=> 5 quarts <#> 5\text{ pints}
\frac{1}{6}\text{ of the pizza} <=> \frac16 <=> 1/6 of the pizza <#> \frac56
7\text{ years old} <=> 7 <=> 7 years <=> 7 years old <#> 8\text{ years old}
3\text{ h }20\text{ min} <=> 200\text{ min} <=> 3 hours 20 minutes <=> 3\frac13\text{ hours} <#> 3.2\text{ hours}
\text{Friday} <=> friday <=> Friday <=> \text{ Friday} <#> Monday
\text{right triangle} <=> right triangle <=> Right Triangle <=> a right triangle <#> isosceles triangle
\text{(A) and (C)} <=> A and C <=> (A), (C) <=> C, A <=> A, C <#> A <#> B, C
\text{neither even nor odd} <=> neither even nor odd <=> Neither even nor odd. <#> even
\text{True} <=> true <=> \text{true} <=> True. <#> False <#> not true
\text{blue} <=> blue <=> Blue <#> red
\text{Alice} <=> Alice <=> alice <#> Bob <#> Alice and Bob
\text{reflexive, symmetric} <=> symmetric, reflexive <=> reflexive and symmetric <#> reflexive
0.125 <=> \frac18 <=> 12.5\% <=> 1/8 <=> 2^{-3} <=> .125 <=> 1.25\times10^{-1} <=> \frac{125}{1000} <#> 0.0125 <#> 1.25
99.9\% <=> 0.999 <=> 99.9 <=> 99.9 percent <#> 100\%
-0.75 <=> -\frac34 <=> -.75 <=> -3/4 <=> -75\% <=> \frac{-3}{4} <#> 0.75
1.414213562 <=> \sqrt2 <=> \sqrt{2} <#> 1.41421357
6.28 <=> 6.280 <=> 157/25 <#> 2\pi <#> 6.3
2.718 <=> 2.7180 <#> e
10^{-9} <=> 1e-9 <=> 0.000000001 <=> 1\times 10^{-9} <#> 2\times10^{-9} <#> 0
\frac{355}{113} <=> 3\frac{16}{113} <#> \pi
2^{64} <=> 18446744073709551616 <=> 4^{32} <#> 18446744073709551615 <#> 2^{63}
\sqrt{2}+\sqrt{3} <=> \sqrt{5+2\sqrt6} <=> \sqrt3+\sqrt2 <=> 3.14626437 <#> \pi <#> \sqrt5
100! <=> 100\cdot99! <#> 99! <#> 100!+1
x^2-5x+6=0 <=> (x-2)(x-3)=0 <=> x^2+6=5x <#> x=2,3 <#> x^2-5x-6=0
x=2,y=3\text{ or }x=3,y=2 <=> (2,3),(3,2) <=> (x,y)=(2,3)\text{ or }(3,2) <=> (x,y)=(2,3),(3,2) <#> (2,3) <#> (2,2),(3,3)
(x,y,z)=(1,2,3) <=> (1,2,3) <=> x=1,y=2,z=3 <=> x = 1, \; y = 2, \; z = 3 <#> (3,2,1)
(\pm 1, 0) <=> (1,0),(-1,0) <=> (-1,0),(1,0) <=> \{(1,0),(-1,0)\} <#> (1,0) <#> (0,\pm1)
(0,\pm 2) <=> (0,2),(0,-2) <=> (0,2) \text{ and } (0,-2) <#> (0,2)
f(2)=5 <=> 5 <=> f(2) = 5 <=> 5=f(2) <#> f(3)=5 <#> 2f(2)=5 <#> -f(2)=5 <#> f(2)=6
r=3 <=> 3 <=> r = 3 <#> -r=3 <#> r^2=3 <#> 2r=3 <#> r=-3
\frac{3}{4} <#> \frac{3}{4}1 <#> \frac{3}{4}, 1 <#> \frac{3}{4}^2 <#> 2\frac{3}{4}
3\text{ million} <=> 3 million <#> 3\text{ million}^2 <#> 3\text{ million}1
(0,0) <=> (0, 0) <#> [0,0) <#> [0,0] <#> (0,0,0) <#> 0
\sqrt{7} <#> \sqrt{7}1 <#> 1\sqrt{7}1 <#> \sqrt{7}^3
-3 <=> \log_{1/2} 8 <=> \log_{\frac12}8 <=> -\log_2 8 <=> \log_2\frac18 <=> \sqrt[3]{-27} <=> -\sqrt{9} <=> \text{negative three} <=> -3.00 <=> (-3) <=> −3 <#> 3 <#> \log_2 8
\frac{1}{2}\log_2 3 <=> \log_4 3 <=> \log_2\sqrt3 <=> \frac{\ln 3}{2\ln 2} <#> \log_2 3 <#> \log_3 2
\log_2 x+\log_2 y <=> \log_2(xy) <=> \log_2 xy <#> \log_2(x+y)
\sqrt{x}\sqrt{y} <=> \sqrt{xy} <=> (xy)^{1/2} <=> \sqrt{x}\cdot\sqrt{y} <#> \sqrt{x+y} <#> xy
x^{a}x^{b} <=> x^{a+b} <=> x^a\cdot x^b <#> x^{ab}
\frac{x^{-1}}{y^{-2}} <=> \frac{y^2}{x} <=> y^2/x <#> \frac{x}{y^2}
1-\sqrt{2} <=> -\sqrt2+1 <=> -(\sqrt2-1) <=> \frac{-1}{1+\sqrt2} <#> \sqrt2-1
2\cos^2 x-1 <=> \cos 2x <=> \cos^2x-\sin^2x <=> 1-2\sin^2x <=> \cos(2x) <#> \cos^2 2x <#> 2\cos x
\frac{\tan x+\tan y}{1-\tan x\tan y} <=> \tan(x+y) <#> \tan x+\tan y
5e^{i\frac{\pi}{4}} <=> \frac{5\sqrt2}{2}+\frac{5\sqrt2}{2}i <=> 5(\cos\frac\pi4+i\sin\frac\pi4) <=> 5e^{\pi i/4} <=> \frac{5}{\sqrt2}(1+i) <#> 5e^{-i\pi/4}
\frac{3}{5}-\frac{4}{5}i <=> \frac{3-4i}{5} <=> 0.6-0.8i <=> \frac{2-i}{2+i} <=> \frac{5}{3+4i} <#> \frac35+\frac45i
\{(1,2),(3,4)\} <=> \{(3,4),(1,2)\} <=> (1,2),(3,4) <=> (1, 2) \text{ and } (3, 4) <#> \{(2,1),(4,3)\} <#> \{(1,2)\}
\{x\in\mathbb{Z}: -1\le x\le 2\} <=> \{-1,0,1,2\} <#> [-1,2]
(-\infty,0]\cup[2,\infty) <=> x\le0\text{ or }x\ge2 <=> \mathbb{R}\setminus(0,2) <=> (-\infty, 0] ∪ [2, ∞) <=> x \in (-\infty,0] \cup [2,\infty) <#> (0,2) <#> (-\infty,0)\cup(2,\infty)
(1,3)\cup(3,5) <=> 1<x<5, x\ne3 <=> 1<x<3\text{ or }3<x<5 <=> (1,5)\setminus\{3\} <=> (3,5)\cup(1,3) <#> (1,5)
[-1,1) <=> -1\le x<1 <=> -1 \leq x < 1 <=> \left[-1,1\right) <=> [-1,\;1) <#> (-1,1]
x>\frac{3}{2} <=> x>1.5 <=> (\frac32,\infty) <=> 2x>3 <=> \frac{3}{2}<x <=> x > 3/2 <#> x<\frac32 <#> x\ge1.5
k\le 4 <=> (-\infty,4] <=> 4\ge k <=> k \leqslant 4 <=> k≤4 <#> k<4 <#> k\ge4 <#> 4
0\le\theta<2\pi <=> [0,2\pi) <=> \theta\in[0,2\pi) <=> 0 \leq \theta < 2\pi <#> [0,2\pi]
a>0\text{ and }b<0 <=> b<0\text{ and }a>0 <=> a>0, b<0 <#> a>0\text{ or }b<0 <#> a<0,b>0
\begin{pmatrix} \frac{1}{2} & -\frac{1}{2} \\ 0 & 1 \end{pmatrix} <=> \frac{1}{2}\begin{pmatrix} 1 & -1 \\ 0 & 2 \end{pmatrix} <=> \begin{bmatrix} 0.5 & -0.5 \\ 0 & 1 \end{bmatrix} <=> \begin{pmatrix} 1/2 & -1/2 \\ 0 & 1 \end{pmatrix} <#> \begin{pmatrix} \frac{1}{2} & \frac{1}{2} \\ 0 & 1 \end{pmatrix}
\begin{pmatrix} a+b \\ c \end{pmatrix} <=> \begin{pmatrix} b+a \\ c \end{pmatrix} <=> \begin{bmatrix} a+b \\ c \end{bmatrix} <#> \begin{pmatrix} c \\ a+b \end{pmatrix}
(x,y)=(t,2t) <=> (t,2t) <=> x=t,y=2t <#> (2t,t)
y=\pm\sqrt{x} <=> \pm\sqrt{x} <=> y=\sqrt x\text{ or }y=-\sqrt x <=> y = \sqrt{x}, -\sqrt{x} <#> y=\sqrt{x}
x=-1\pm\sqrt{3} <=> -1\pm\sqrt3 <=> x=-1+\sqrt3,\ x=-1-\sqrt3 <=> \sqrt3-1,-\sqrt3-1 <=> -1-\sqrt3 \text{ and } -1+\sqrt3 <#> 1\pm\sqrt3
x=\pm i\sqrt2 <=> \pm\sqrt2i <=> \pm i\sqrt{2} <=> i\sqrt2,-i\sqrt2 <=> \pm\sqrt{-2} <#> \pm\sqrt2
2, 4, \text{ and } 6 <=> 2,4,6 <=> 6, 4, 2 <=> \{2, 4, 6\} <=> 2; 4; 6 <#> 2,4 <#> 246
3\text{ cats and }4\text{ dogs} <=> 4 dogs and 3 cats <=> 3 cats, 4 dogs <#> 4\text{ cats and }3\text{ dogs} <#> 7
\$3.75 <=> 3.75 <=> $3.75 <=> 3.75\text{ dollars} <=> 375\text{ cents} <#> 37.5 <#> \$3.57
€20 <=> 20 <=> 20\text{ euros} <=> 20€ <=> \text{€}20 <#> \$20 <#> £20
1.5\text{ L} <=> 1500\text{ mL} <=> 1.5 <=> 1.5 liters <=> 1.5 litres <=> 1.5 l <#> 15\text{ L} <#> 1.5\text{ mL}
45\text{ minutes} <=> 0.75\text{ hours} <=> 45 min <=> 45 <=> 45 mins <=> 45\,\text{min} <=> \frac34\text{ hour} <#> 45\text{ seconds}
8\text{ in}\times10\text{ in} <=> 8\text{ in}\times10\text{ in} <#> 80
12\text{ units}^2 <=> 12 <=> 12\text{ square units} <=> 12 \text{ sq. units} <#> 144
98.6^\circ\text{F} <=> 98.6 <=> 98.6°F <=> 98.6^{\circ}F <=> 98.6 degrees Fahrenheit <#> 98.6^\circ\text{C}
135^\circ <=> 135 <=> \frac{3\pi}{4} <=> 135 degrees <=> 135° <=> m\angle A=135^\circ <=> \angle A = 135^\circ <=> \theta=135^\circ <#> 45^\circ <#> \frac{\pi}{4}
\frac{5\pi}{12} <=> 75^\circ <=> 5\pi/12 <=> \frac{5}{12}\pi <=> \frac{5\pi}{12}\text{ rad} <#> 75 <#> \frac{7\pi}{12}
\sin x=\frac12 <=> \sin(x)=0.5 <=> 2\sin x=1 <#> x=\frac{\pi}{6} <#> \cos x=\frac12
x\log x <=> x\cdot\log x <=> (\log x)x <=> \log x^x <#> \log x^2 <#> x+\log x
\lceil \pi\rceil <=> 4 <#> 3
7\bmod 3 <=> 1 <=> 7 \mod 3 <#> 2
0.1+0.2 <=> 0.3 <=> \frac{3}{10} <#> 0.30000000000000004 1
\frac{0.5}{0.25} <=> 2 <#> 0.5
9.99\times 10^2 <=> 999 <=> 9.99e2 <=> 999.0 <#> 1000
6.25\times10^{18} <=> 6.25e18 <=> 6250000000000000000 <=> 6.25 * 10^18 <=> 6.25 × 10^{18} <#> 6.25\times10^{17}
2.0 <=> 2 <=> 2.00 <=> \frac42 <#> 20
one <=> 1 <=> \text{one} <=> One <#> 11 <#> first
\text{III} <=> III <=> (III) <=> iii <#> II <#> IV
\text{II and III} <=> II and III <=> III and II <=> II, III <#> I and II <#> III
\text{A, C} <=> A, C <=> C, A <=> A and C <#> A <#> A, B
\text{False} <=> false <=> FALSE <=> \mathrm{False} <#> True
\text{north} <=> North <=> north <=> \mathrm{north} <#> south
\text{2023} <=> 2023 <=> 2,023 <#> 2024
\text{January 1, 2000} <=> January 1, 2000 <#> January 2, 2000
p\to q <=> p\rightarrow q <#> q\to p
\neg p\lor q <=> \lnot p \vee q <#> p\lor q
\text{SSS} <=> SSS <#> SAS
AB\parallel CD <=> AB \parallel CD <#> AB\perp CD
4 <=> x=4 <=> \text{four} <=> 4\text{ solutions} <=> 4 <=> \boxed{4} <=> \left| -4 \right| <=> 2^2 <=> \sqrt{16} <=> 16^{1/2} <=> 16^{0.5} <=> \frac{8}{2} <=> 4:1 <=> 4.000 <#> \pm4 <#> \pm2 <#> -4 <#> 16
\frac{11}{2} <=> 5\frac{1}{2} <=> 5.5 <=> 5 \frac{1}{2} <=> 5\ 1/2 <=> 5½ <=> 5+\frac12 <=> 550\% <=> 11/2 <=> \frac{11}{2}\text{ m} <#> 5/2 <#> 51/2
1,000 <=> 1000 <=> 10^3 <=> 1\,000 <=> 1 000 <=> 1{,}000 <=> 1000.00 <=> 1\!,\!000 <=> one thousand <#> 1 <#> 1.000
x=1+\sqrt{3} <=> 1+\sqrt3 <=> x=\sqrt{3}+1 <=> x \approx 2.7320508 <=> 2.7320508 <#> 1-\sqrt3 <#> 2.73
\frac{\sqrt{10}}{5} <=> \sqrt{\frac{2}{5}} <=> \sqrt{0.4} <=> \frac{2}{\sqrt{10}} <=> \sqrt{10}/5 <=> \frac{1}{5}\sqrt{10} <#> \frac{\sqrt5}{10} <#> \sqrt2
\frac{4\pi}{3} <=> \frac43\pi <=> 4\pi/3 <=> \pi\cdot\frac43 <=> 240^\circ <=> \frac{4}{3}\pi\text{ cubic units} <=> 4.18879 <#> \frac{3\pi}{4} <#> 4.19
3x+2y-7=0 <=> 3x+2y=7 <=> y=\frac{7-3x}{2} <=> y=-\frac32x+\frac72 <=> 2y=7-3x <=> -3x-2y+7=0 <#> 3x-2y=7 <#> 2x+3y=7
x^2-y^2=1 <=> x^2=1+y^2 <=> (x-y)(x+y)=1 <=> x^2-y^2-1=0 <#> y^2-x^2=1
(5,-3) <=> \left(5,-3\right) <=> (5.0,-3.0) <=> x=5,\ y=-3 <=> (x,y)=(5,-3) <=> \text{center }(5,-3) <=> P(5,-3) <=> $(5,-3)$ <=> (5, − 3) <#> (-3,5) <#> (5,3)
A(1,2) <=> (1,2) <=> A = (1,2) <#> (2,1)
\left(0,\frac{1}{2}\right] <=> 0<x\le\frac12 <=> (0,0.5] <=> (0,1/2] <=> \{x:0<x\le 0.5\} <#> [0,\frac12] <#> (0,\frac12)
\left(-\infty,-\frac{1}{2}\right)\cup\left(\frac{1}{2},\infty\right) <=> |x|>\frac12 <=> x<-\frac12\text{ or }x>\frac12 <=> (-∞,-1/2)∪(1/2,∞) <=> x<-0.5 \lor x>0.5 <#> |x|<\frac12
\{\} <=> \emptyset <=> \varnothing <=> \text{empty set} <=> \text{No solution} <=> no real solutions <=> \text{no real solution} <#> 0
6xy-3x <=> 3x(2y-1) <=> -3x+6xy <=> 3(2xy-x) <#> 6xy+3x
\frac{1}{a}-\frac{1}{b} <=> \frac{b-a}{ab} <=> \frac{b-a}{ba} <=> a^{-1}-b^{-1} <#> \frac{a-b}{ab} <#> \frac1{a-b}
\frac{a^2-b^2}{a-b} <=> a+b <=> b+a <#> a-b
2^{x+1} <=> 2\cdot2^x <=> 2(2^x) <=> 2^{1+x} <#> 2^x+1 <#> 4^x
(2n)! <=> (2n)! <#> 2n! <#> 2(n!)
n(n-1)(n-2) <=> \frac{n!}{(n-3)!} <=> n^3-3n^2+2n <#> n^3
\left\lfloor\frac{n}{2}\right\rfloor <=> \lfloor n/2\rfloor <=> ⌊n/2⌋ <=> floor(n/2) <#> \lceil n/2\rceil <#> \frac n2
\binom{n}{2} <=> \frac{n(n-1)}{2} <=> \frac{n^2-n}{2} <=> n(n-1)/2 <#> \frac{n(n+1)}{2}
F_{n+1} <=> F_{n+1} <#> F_n <#> F_{n-1}
a_1 <=> a_{1} <=> a₁ <#> a_2 <#> a
\log x^2 <=> \log(x^2) <=> 2\log x <#> (\log x)^2
\frac{\log 12}{\log 3} <=> \log_3 12 <=> 1+\log_3 4 <=> \frac{\ln12}{\ln3} <#> \log 4
\sec^2\theta-1 <=> \tan^2\theta <=> \tan^2(\theta) <=> (\tan\theta)^2 <#> \tan\theta
\cos(\pi-x) <=> -\cos x <=> -\cos(x) <#> \cos x <#> \sin x
\sin^{-1}\frac{1}{2} <=> \frac{\pi}{6} <=> \arcsin(0.5) <=> 30^\circ <=> \arcsin\frac12 <#> 2 <#> \frac{1}{\sin\frac12}
|z|=5 <=> 5 <=> \lvert z\rvert=5 <#> z=5
z=2+3i <=> 2+3i <=> z=3i+2 <#> 2-3i
e^{\pi i}+1 <=> 0 <#> 2
\omega=\frac{-1+i\sqrt3}{2} <=> \frac{-1+\sqrt3i}{2} <=> -\frac12+\frac{\sqrt3}{2}i <=> e^{2\pi i/3} <#> \frac{1+i\sqrt3}{2}
\begin{pmatrix}2&0\\0&2\end{pmatrix} <=> 2\begin{pmatrix}1&0\\0&1\end{pmatrix} <=> \begin{bmatrix}2&0\\0&2\end{bmatrix} <#> \begin{pmatrix}0&2\\2&0\end{pmatrix}
(1,0,0),(0,1,0),(0,0,1) <=> (0,0,1),(0,1,0),(1,0,0) <#> (1,0,0),(0,1,0)
7.5\text{ cm} <=> 75\text{ mm} <=> 7.5 <=> 7\frac12\text{ cm} <=> 7.5 centimetres <=> 7.50 cm <#> 7.5\text{ mm} <#> 75
120\text{ km} <=> 120 <=> 120 kilometres <=> 120\,\text{km} <=> 120km <=> 1.2\times10^5\text{ m} <#> 120\text{ m}
30\text{ min} <=> \frac12\text{ hour} <=> 0.5\text{ h} <=> 30 minutes <=> half an hour <=> 1800\text{ s} <#> 30\text{ s}
9:00 <=> 9:00 <=> 9:00 am <#> 10:00 <#> 0:00 <#> -9:00
9:00\text{ AM} <=> 9:00 am <=> 9 AM <=> 9:00 <=> 9 a.m. <#> 9:00\text{ PM}
50\text{ cents} <=> \$0.50 <=> 50¢ <=> 50 <=> 0.50 dollars <#> \$50
£15 <=> 15 <=> 15 pounds <=> £15.00 <#> \$15 <#> 51
40\% <=> 0.4 <=> \frac25 <=> 40 <=> 40 per cent <=> 40 % <=> 2/5 <=> forty percent <#> 4\% <#> 0.04
25\%\text{ increase} <=> 25\% <=> 25 <#> 25\%\text{ decrease}
2:1 <=> 2 <=> 2/1 <=> 4:2 <=> 2 : 1 <=> \frac{2}{1} <#> 1:2
1:\sqrt2 <=> \frac{1}{\sqrt2} <=> \sqrt2:2 <=> 1 : \sqrt{2} <#> \sqrt2:1
0.\overline{09} <=> \frac1{11} <=> 0.090909\ldots <=> 1/11 <=> 0.0909090909 <#> 0.09 <#> 0.\overline{9}
1.\overline{6} <=> \frac53 <=> 5/3 <=> 1\frac23 <=> 1.666\ldots <=> 1.66666667 <#> 1.6 <#> 1.67
5^{\circ} <=> 5^\circ <=> 5 <=> 5\text{ degrees} <#> 5^0 <#> 1
\text{FF}_{16} <=> \mathrm{FF}_{16} <#> 255_{16}
x\equiv 1\pmod 4 <=> x \equiv 1 \mod 4 <=> x\equiv5\pmod4 <=> 1\pmod 4 <#> x\equiv3\pmod4 <#> x\equiv1\pmod5
\frac{1}{2} <=> \frac{1}{2} <=> \frac 1 2 <=> \frac1 2 <=> {1\over2} <=> 1/2. <=> 0.5\; <=> \left. \frac{1}{2} \right. <=> \displaystyle{\frac{1}{2}} <=> \text{$\frac{1}{2}$} <=> \mathrm{\frac{1}{2}} <=> \bf{\frac{1}{2}} <=> \color{red}{\frac{1}{2}} <=> \textcolor{blue}{\frac12} <=> \large \frac{1}{2} <=> \frac{\text{1}}{\text{2}} <=> \frac{1}{2}\ \ <=> \frac{1}{2}\quad <=> \frac{1}{2}\hspace{2mm} <=> \fbox{$\frac{1}{2}$} <=> \boxed{\mathbf{\frac{1}{2}}} <=> \boxed{\frac{1}{2}.} <=> \boxed{ \dfrac{1}{2} }  <=> \[ \boxed{\frac{1}{2}} \] <=> $$\boxed{\frac{1}{2}}$$ <=> \frac{{1}}{{2}} <=> \frac{(1)}{(2)} <=> +\frac{1}{2} <=> \frac{+1}{2} <=> \frac{1}{2}\cdot1 <=> \frac{1}{2}+0 <=> \frac{1}{2}i^4 <#> \frac{1}{2}i <#> \frac{2}{1} <#> \frac{1}{2}x
3\frac{1}{4} <=> 3.25 <=> \frac{13}{4} <=> 3 + \frac{1}{4} <=> 3 \tfrac14 <=> 3\,\frac{1}{4} <=> 3~\frac14 <=> 3 \dfrac{1}{4} <=> 3\text{ }\frac{1}{4} <=> 3{\frac{1}{4}} <=> 3¼ <=> 3\!\frac14 <=> 13/4 <#> \frac34 <#> 3\cdot\frac14 <#> 31/4
x^2+3x+2 <=> x^{2}+3x+2 <=> x²+3x+2 <=> x^2 + 3 x + 2 <=> x^2+3\cdot x+2 <=> 2+3x+x^2 <=> (x+1)(x+2) <=> (x+2)(x+1) <=> x(x+3)+2 <=> x**2+3*x+2 <=> x^2 + 3\,x + 2 <=> \left(x+1\right)\left(x+2\right) <=> x*x+3x+2 <=> x\cdot x+3x+2 <=> {x}^{2}+3{x}+2 <=> 1x^2+3x+2 <=> (x + 1.5)^2 - 0.25 <#> x^2+3x-2 <#> x^2-3x+2 <#> x^2+2x+3 <#> x2+3x+2
\sqrt{13} <=> 13^{1/2} <=> \sqrt {13} <=> √13 <=> √(13) <=> sqrt(13) <=> sqrt{13} <=> \sqrt{13}\,\text{cm} <=> (13)^{0.5} <=> \sqrt{26/2} <=> \sqrt[2]{13} <=> \surd13 <=> 3.6055512755 <#> \sqrt13\cdot2 <#> \sqrt{31}
x\in[-2,3] <=> -2\le x\le3 <=> [-2,3] <=> -2≤x≤3 <=> x ∈ [−2, 3] <=> \{x\in\mathbb{R}\mid-2\le x\le3\} <=> \{x\in\mathbb{R}:-2\leq x\leq3\} <=> 3\ge x\ge-2 <=> x\ge-2 \text{ and } x\le3 <=> [-2;3] <=> \left[ -2, 3 \right] <=> -2\leqslant x\leqslant 3 <=> -2 <= x <= 3 <#> (-2,3) <#> [-3,2] <#> -2<x\le3
8\pi <=> 8\pi <=> 8π <=> 8 π <=> 8\,\pi <=> 8*π <=> 8 \times \pi <=> 8\cdot\pi <=> \pi8 <=> 8\pi\ \text{cm}^2 <=> 8\pi\text{ square inches} <=> 8Pi <=> 8pi <=> 25.1327412287 <#> 8 <#> 8\pi^2 <#> 8+\pi <#> 25.13
1+2\sqrt{3} <=> 2\sqrt3+1 <=> 1+\sqrt{12} <=> 1 + 2√3 <=> 1+2*sqrt(3) <=> 1+2(3)^{1/2} <=> \frac{2+4\sqrt3}{2} <#> 3\sqrt3 <#> 1-2\sqrt3
2i <=> 2i <=> 2\mathrm{i} <=> 0+2i <=> i2 <=> 2\cdot i <=> \sqrt{-4} <=> 2 i <=> i+i <#> -2i <#> 2 <#> 2+i
\{-2,0,2\} <=> -2,0,2 <=> x=-2,0,2 <=> x=0,\pm2 <=> \{0,\pm2\} <=> 0,\pm 2 <=> x\in\{-2,0,2\} <=> x=0, x=2, x=-2 <=> -2, 0, \text{ and } 2 <=> x=-2\text{ or }x=0\text{ or }x=2 <=> x = -2, x = 0, \text{ or } x = 2 <=> \left\{-2,\ 0,\ 2\right\} <#> \{-2,2\} <#> \{0,2\} <#> 0,1,2
y=\frac{1}{2}x-3 <=> y=0.5x-3 <=> y = \frac{x}{2} - 3 <=> 2y=x-6 <=> x-2y=6 <=> x-2y-6=0 <=> \frac12x-3 <=> y=\frac{x-6}{2} <=> f(x)=\frac12x-3 <#> y=\frac12x+3 <#> y=2x-3
n=12 <=> 12 <=> n = 12 <=> n\!=\!12 <=> $n=12$ <=> n=12. <=> \boxed{n=12} <=> \text{n = 12} <=> n:=12 <=> n=\boxed{12} <#> n=21 <#> m=13
150^\circ <=> 150 <=> 150° <=> 150\text{ degrees} <=> \frac{5\pi}{6} <=> 150^{\circ} <=> 150^\text{o} <=> 150^{\text{o}} <=> 150\,^\circ <=> 150\text{°} <=> 150 deg <=> 150^\circ. <#> 30^\circ <#> 150\%
"""


def pairs() -> Iterator[Pair]:
    """Every pair of the suite."""
    rule = ""
    for line in TEXT.strip().splitlines():
        if line.startswith("#"):
            rule = line[1:].strip()
            continue
        gold, *rest = line.replace(" <=> ", "\n=").replace(" <#> ", "\n#").split("\n")
        for marked in rest:
            yield Pair(rule, gold, marked[1:], marked[0] == "=")
