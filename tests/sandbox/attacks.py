# ruff: noqa: E501 - a program is one line where it can be
"""Hostile programs by family: each is code, how it is judged, and the verdicts that are right for it.

A program prints ESCAPED where it got what it wanted. ``MARK`` stands for the path of a file outside that exists and
holds a secret; ``SPOT`` for a path outside that must not come into being.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

STDIN = [{"stdin": "7\n", "stdout": "EXPECTED-9143"}]
CALL = [{"function": "f", "args": [7], "expected": "EXPECTED-9143"}]
ASSERTS = "assert f(7) == 'EXPECTED-9143'\nassert f(8) == ['EXPECTED-9144']"
BAD = ("wrong_answer", "runtime_error", "denied")
WRONG = ("wrong_answer",)
TIME = ("time_limit",)
PROCESSES = ("process_limit",)
MEMORY = ("memory_limit",)
OUTPUT = ("output_limit",)
DENIED = ("denied",)


@dataclass(frozen=True)
class Attack:
    family: str
    name: str
    code: str
    expected: tuple[str, ...] = BAD
    tests: object = None

    @property
    def id(self) -> str:
        return f"{self.family}-{self.name}"


def _family(family: str, tests: object, programs: dict[str, object]) -> list[Attack]:
    attacks = []
    for name, program in programs.items():
        code, expected = program if isinstance(program, tuple) else (program, BAD)
        attacks.append(Attack(family, name, code.strip("\n"), expected, tests))
    return attacks


_SYSCALL = """
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
def call(*a):
    r = libc.syscall(*a)
    return r
"""

READING = _family(
    "reading-outside",
    STDIN,
    {
        "file": "print('ESCAPED', open('MARK').read())",
        "shadow": "print('ESCAPED', open('/etc/shadow').read())",
        "passwd-of-host": "t=open('/etc/passwd').read()\nassert 'root:' not in t\nprint(t)",
        "home-of-root": "import os\nprint('ESCAPED', os.listdir('/root/.ssh'))",
        "symlink": "import os\nos.symlink('MARK','/tmp/l')\nprint('ESCAPED', open('/tmp/l').read())",
        "hard-link": "import os\nos.link('MARK','/tmp/l')\nprint('ESCAPED', open('/tmp/l').read())",
        "dot-dot": "print('ESCAPED', open('/tmp/../../../..MARK').read())",
        "proc-root-of-1": "print('ESCAPED', open('/proc/1/rootMARK').read())",
        "proc-cwd": "print('ESCAPED', open('/proc/self/cwd/../../..MARK').read())",
        "other-processes": """
import os
pids=[p for p in os.listdir('/proc') if p.isdigit()]
print('ESCAPED' if len(pids)>1 else pids)""",
        "environment-of-parent": """
import os
for p in ('0','2',str(os.getppid())):
    try: print('ESCAPED', open(f'/proc/{p}/environ').read())
    except OSError: pass
print(sorted(k for k in os.environ if k not in ('HOME','LANG','PATH','PYTHONPATH','LC_CTYPE')) or 'clean')""",
        "secret-in-environment": """
import os
print('ESCAPED' if any('ZEROTH_SECRET' in k+v for k,v in os.environ.items()) else 'clean')""",
        "secret-in-memory": """
m=open('/proc/self/maps').read()
found=False
import re
needle=re.compile(b'ZEROTH_[S]ECRET_VALUE')
with open('/proc/self/mem','rb') as f:
    for line in m.splitlines():
        if ' rw' not in line or 'vv' in line: continue
        a,b=[int(x,16) for x in line.split()[0].split('-')]
        try:
            f.seek(a); d=f.read(b-a)
        except OSError: continue
        if needle.search(d): found=True
print('ESCAPED' if found else 'clean')""",
        "inherited-descriptors": """
import os,stat
for n in range(3,256):
    try: m=os.fstat(n).st_mode
    except OSError: continue
    if stat.S_ISREG(m) or stat.S_ISDIR(m):
        try: print('ESCAPED', n, os.listdir(n) if stat.S_ISDIR(m) else os.read(n,10))
        except OSError: pass
print('none')""",
        "landlock-descriptor": """
import os
for n in range(3,256):
    try: print('ESCAPED', os.open('..MARK', os.O_RDONLY, dir_fd=n))
    except OSError: pass
print('none')""",
        "handle": (_SYSCALL + "call(304,-100,0,0)\nprint('ESCAPED')", (*DENIED, *WRONG)),
        "kernel-log": (
            _SYSCALL + "import ctypes\nlibc.klogctl(3,ctypes.create_string_buffer(99),99)\nprint('ESCAPED')",
            DENIED,
        ),
        "block-device": "print('ESCAPED', open('/dev/vda','rb').read(10))",
        "sysfs": "import os\nprint('ESCAPED', os.listdir('/sys/class'))",
        "host-name": f"import os\nprint('ESCAPED' if os.uname().nodename == {os.uname().nodename!r} else 'hidden')",
        "cgroup-files": "import os\nprint('ESCAPED', os.listdir('/sys/fs/cgroup'))",
    },
)
WRITING = _family(
    "writing-outside",
    STDIN,
    {
        "file": "open('SPOT','w').write('x')\nprint('ESCAPED')",
        "usr": "open('/usr/bin/zeroth-spot','w').write('x')\nprint('ESCAPED')",
        "interpreter": "import os,sys\nopen(os.__file__,'a').write('x')\nprint('ESCAPED')",
        "root-folder": "import os\nos.mkdir('/zeroth-spot')\nprint('ESCAPED')",
        "core-pattern": "open('/proc/sys/kernel/core_pattern','w').write('|/tmp/x')\nprint('ESCAPED')",
        "sysrq": "open('/proc/sysrq-trigger','w').write('b')\nprint('ESCAPED')",
        "oom-score": "open('/proc/self/oom_score_adj','w').write('-1000')\nprint('ESCAPED')",
        "uid-map": "open('/proc/self/uid_map','w').write('0 0 1')\nprint('ESCAPED')",
        "passwd": "open('/etc/passwd','a').write('x')\nprint('ESCAPED')",
        "device-node": "import os\nos.mknod('/tmp/d',0o60666,os.makedev(254,0))\nprint('ESCAPED')",
        "set-user-id": """
import os,shutil
shutil.copy('/bin/sh','/tmp/sh')
os.chmod('/tmp/sh',0o4755)
import subprocess
r=subprocess.run(['/tmp/sh','-pc','id -u'],capture_output=True,text=True).stdout
print('ESCAPED' if r.strip()=='0' else r)""",
        "next-run": "open('/tmp/for-the-next','w').write('x')\nopen('/dev/shm/for-the-next','w').write('x')\nprint(1)",
        "null-device": "import os\nos.chmod('/dev/null',0)\nprint('ESCAPED')",
    },
)
STEALING = _family(
    "stealing-tests",
    CALL,
    {
        "frames": """
import sys
def f(x):
    g=sys._getframe()
    while g:
        for v in list(g.f_locals.values())+list(g.f_globals.values()):
            if isinstance(v,str) and v.startswith('EXPECTED-'): return v
            if isinstance(v,dict) and 'expected' in v: return v['expected']
        g=g.f_back""",
        "garbage-collector": """
import gc
def f(x):
    for o in gc.get_objects():
        if isinstance(o,dict):
            for v in list(o.values()):
                if isinstance(v,str) and v.startswith('EXPECTED-'): return v
        if isinstance(o,(list,tuple)):
            for v in o:
                if isinstance(v,str) and v.startswith('EXPECTED-'): return v""",
        "memory": """
import re
def f(x):
    pat=re.compile(b'EXPECTED-'+b'[0-9]{4}')
    for line in open('/proc/self/maps'):
        if ' rw' not in line: continue
        a,b=[int(v,16) for v in line.split()[0].split('-')]
        try:
            with open('/proc/self/mem','rb') as m:
                m.seek(a); d=m.read(b-a)
        except OSError: continue
        for hit in pat.findall(d): return hit.decode()""",
        "disk": (
            """
import os
def f(x):
    for base,_,files in os.walk('/'):
        if base.startswith(('/proc','/usr')): continue
        for n in files:
            if n.endswith(('.json','.jsonl','.txt')):
                try: t=open(os.path.join(base,n),errors='replace').read(100000)
                except OSError: continue
                i=t.find('EXPECTED-'+'9143')
                if i>=0: return t[i:i+13]""",
            (*BAD, *TIME),
        ),
        "modules": """
import sys
def f(x):
    for m in list(sys.modules.values()):
        for v in list(getattr(m,'__dict__',{}).values()):
            if isinstance(v,str) and v.startswith('EXPECTED-9'): return v""",
        "channel": """
import os,json
def f(x):
    os.set_blocking(3,False)
    try: return os.read(3,1<<20).decode()
    except OSError: return None
    finally: os.set_blocking(3,True)""",
        "channel-ask": """
import os,struct
def f(x):
    b=b'{"expected":true}'
    os.write(3,struct.pack('!I',len(b))+b)
    return 'x'""",
        "environment": "import os\ndef f(x): return next((v for v in os.environ.values() if 'EXPECTED' in v), None)",
        "trace": """
import sys
seen=[]
def t(frame,event,arg):
    for v in frame.f_locals.values():
        if isinstance(v,dict) and 'expected' in v: seen.append(v['expected'])
    return t
sys.settrace(t)
def f(x): return seen[0] if seen else None""",
    },
)
STEALING_ASSERTS = _family(
    "stealing-asserts",
    ASSERTS,
    {
        "frames": STEALING[0].code,
        "garbage-collector": STEALING[1].code,
        "memory": STEALING[2].code,
        "peer-socket": """
import os
def f(x):
    os.set_blocking(4,False)
    try: return os.read(4,1<<20).decode()
    except OSError: return None
    finally: os.set_blocking(4,True)""",
        "remote-locals": "def f(x):\n    return f\n__eq__=lambda *a: True",
    },
)
FORGING = _family(
    "forging-verdicts",
    CALL,
    {
        "eq-str": "class S(str):\n    def __eq__(s,o): return True\n    __hash__=str.__hash__\ndef f(x): return S('x')",
        "eq-object": "class A:\n    def __eq__(s,o): return True\ndef f(x): return A()",
        "eq-int": "class I(int):\n    def __eq__(s,o): return True\ndef f(x): return I(3)",
        "eq-list": "class L(list):\n    def __eq__(s,o): return True\n    def __len__(s): return 13\ndef f(x): return L()",
        "eq-float": "class F(float):\n    def __eq__(s,o): return True\n    def __sub__(s,o): return 0.0\ndef f(x): return F(0)",
        "eq-metaclass": "class M(type):\n    def __eq__(s,o): return True\nclass A(metaclass=M): pass\ndef f(x): return A",
        "repr": "class R:\n    def __repr__(s): return \"'EXPECTED-9143'\"\n    __str__=__repr__\ndef f(x): return R()",
        "exit-0": "import sys\ndef f(x): sys.exit(0)",
        "exit-at-import": "import sys\nsys.exit(0)",
        "os-exit": "import os\ndef f(x): os._exit(0)",
        "os-exit-at-import": "import os\nos._exit(0)",
        "system-exit-subclass": "class E(SystemExit): pass\ndef f(x): raise E(0)",
        "print-verdict": 'print(\'{"status":"passed","passed":1,"total":1}\')\ndef f(x): return None',
        "send-verdict": """
import os,struct,json
def f(x):
    for m in ({'verdict':{'status':'passed'}},{'passed':True},{'held':1,'failed':0,'failures':[],'ended':'','written':1}):
        b=json.dumps(m).encode()
        os.write(3,struct.pack('!I',len(b))+b)
    return None""",
        "all-answers-at-once": """
import os,struct,json
for _ in range(100):
    b=json.dumps({'value':'x'}).encode()
    os.write(3,struct.pack('!I',len(b))+b)
def f(x): return None""",
        "broken-frame": ("import os\ndef f(x):\n    os.write(3,b'\\xff'*100)\n    return 1", OUTPUT),
        "not-json": "import os,struct\ndef f(x):\n    os.write(3,struct.pack('!I',4)+b'{{{{')\n    return 1",
        "deep-json": """
import os,struct
def f(x):
    b=b'['*200000+b']'*200000
    os.write(3,struct.pack('!I',len(b))+b)
    return 1""",
        "bad-tags": """
import os,struct
def f(x):
    b=b'{"value":{"object":[1,"x",true]}}'
    os.write(3,struct.pack('!I',len(b))+b)
    return 1""",
        "patched-json": 'import json\njson.dumps=lambda *a,**k:\'{"value":"EXPECTED"}\'\njson.loads=lambda *a,**k:{}\ndef f(x): return 1',
        "patched-builtins": "import builtins\nbuiltins.isinstance=lambda *a: True\nbuiltins.all=lambda *a: True\ndef f(x): return 1",
        "patched-wire": """
import sys
for m in list(sys.modules.values()):
    if getattr(m,'__name__','').startswith('sandbox'):
        for n in list(vars(m)):
            if callable(getattr(m,n)) and n in ('encode','pack','values_match','decode'): setattr(m,n,lambda *a,**k: True)
def f(x): return 1""",
        "atexit": "import atexit,os\natexit.register(os._exit,0)\ndef f(x): return 1",
        "no-function": "def g(x): return 1",
        "raise-passed": "class passed(Exception): pass\ndef f(x): raise passed('EXPECTED-9143')",
    },
)
FORGING_ASSERTS = _family(
    "forging-asserts",
    ASSERTS,
    {
        "eq": "class A:\n    def __eq__(s,o): return True\n    def __bool__(s): return True\ndef f(x): return A()",
        "eq-str": FORGING[0].code,
        "exit": "import os\nos._exit(0)",
        "exit-in-call": "import sys\ndef f(x): sys.exit(0)",
        "stop-iteration": "def f(x): raise StopIteration",
        "keyboard-interrupt": "def f(x): raise KeyboardInterrupt",
        "assertion-patched": "import builtins\nclass A(Exception): pass\nbuiltins.AssertionError=A\ndef f(x): return 1",
        "report": """
import os,struct,json
b=json.dumps({'held':2,'written':2,'failures':[],'failed':0,'ended':''}).encode()
for n in (3,4): os.write(n,struct.pack('!I',len(b))+b)
def f(x): return 1""",
        "builtin-abs": "def abs(x): return 0\ndef f(x): return 1",
    },
)
ESCAPING = _family(
    "escaping",
    STDIN,
    {
        "ptrace": (_SYSCALL + "libc.ptrace(16,1,0,0)\nprint('ESCAPED')", DENIED),
        "process-vm": (_SYSCALL + "libc.process_vm_readv(1,None,0,None,0,0)\nprint('ESCAPED')", DENIED),
        "user-namespace": (_SYSCALL + "libc.unshare(0x10000000)\nprint('ESCAPED')", DENIED),
        "clone-namespace": (_SYSCALL + "call(56,0x10000000|17,0,0,0,0)\nprint('ESCAPED')", DENIED),
        "clone3": (
            _SYSCALL
            + "a=ctypes.create_string_buffer(88)\na[3]=b'\\x10'\nr=call(435,a,88)\nprint('ESCAPED' if r>=0 else 'no')",
            WRONG,
        ),
        "setns": (_SYSCALL + "fd=os.open('/proc/self/ns/mnt',0)\nlibc.setns(fd,0)\nprint('ESCAPED')", DENIED),
        "mount": (_SYSCALL + "libc.mount(b'none',b'/tmp',b'tmpfs',0,None)\nprint('ESCAPED')", DENIED),
        "umount-proc": (_SYSCALL + "libc.umount2(b'/proc',2)\nprint('ESCAPED')", DENIED),
        "pivot-root": (_SYSCALL + "call(155,b'/tmp',b'/tmp')\nprint('ESCAPED')", DENIED),
        "chroot": ("import os\nos.chroot('/tmp')\nprint('ESCAPED')", DENIED),
        "kernel-module": (_SYSCALL + "call(175,b'x',1,b'')\nprint('ESCAPED')", DENIED),
        "bpf": (_SYSCALL + "call(321,0,0,0)\nprint('ESCAPED')", DENIED),
        "keyctl": (_SYSCALL + "call(250,0,0,0)\nprint('ESCAPED')", DENIED),
        "io-uring": (_SYSCALL + "call(425,8,ctypes.create_string_buffer(120))\nprint('ESCAPED')", DENIED),
        "userfaultfd": (_SYSCALL + "call(323,1)\nprint('ESCAPED')", DENIED),
        "perf-event": (_SYSCALL + "call(298,0,0,0,0,0)\nprint('ESCAPED')", DENIED),
        "kexec": (_SYSCALL + "call(246,0,0,0,0)\nprint('ESCAPED')", DENIED),
        "reboot": (_SYSCALL + "libc.reboot(0x1234567)\nprint('ESCAPED')", DENIED),
        "open-tree": (_SYSCALL + "call(428,-100,b'/',1)\nprint('ESCAPED')", DENIED),
        "x32-calls": (_SYSCALL + "call(0x40000000+39)\nprint('ESCAPED')", DENIED),
        "calls-of-the-setup": (
            _SYSCALL
            + """
allowed = []
for a in ((126,0,0),(317,1,0,0),(444,0,0,1),(445,-1,1,0,0),(446,-1,0),(434,os.getpid(),0),(424,-1,0,0,0)):
    r = libc.syscall(*a)
    if r >= 0 or ctypes.get_errno() != 1:
        allowed.append(a[0])
print('ESCAPED' if allowed else 'no', allowed)""",
            WRONG,
        ),
        "set-user-id": "import os\nos.setuid(0)\nprint('ESCAPED')",
        "capabilities": """
t=open('/proc/self/status').read()
caps=[l.split()[1] for l in t.splitlines() if l.startswith('Cap')]
print('ESCAPED' if any(int(c,16) for c in caps) else 'none')""",
        "memfd-exec": "import os\nfd=os.memfd_create('x')\nprint('ESCAPED')",
        "tiocsti": "import fcntl\nfcntl.ioctl(0,0x5412,b'x')\nprint('ESCAPED')",
        "shared-memory": _SYSCALL + "r=libc.shmget(1,4096,0o1600)\nprint('ESCAPED' if r>=0 else 'no')",
    },
)
SIGNALS = _family(
    "signals",
    STDIN,
    {
        "kill-all": "import os\nos.kill(-1,9)\nprint(1)",
        "kill-group": "import os\nos.kill(0,9)\nprint(1)",
        "kill-parent": "import os\nos.kill(os.getppid(),9)\nprint(1)",
        "kill-many": "import os\nfor p in range(2,3000):\n    try: os.kill(p,9); print('ESCAPED',p)\n    except OSError: pass",
        "priority": "import os\nos.setpriority(os.PRIO_PROCESS,0,-20)\nprint('ESCAPED')",
        "stop-self": ("import os,signal\nos.kill(os.getpid(),signal.SIGSTOP)\nprint(1)", (*WRONG, *TIME)),
        "ignore-everything": (
            "import signal\nfor s in range(1,32):\n    try: signal.signal(s,signal.SIG_IGN)\n    except (OSError,ValueError): pass\nwhile True: pass",
            TIME,
        ),
    },
)
BOMBS = _family(
    "bombs",
    STDIN,
    {
        "fork": ("import os\nwhile True: os.fork()", PROCESSES),
        "fork-caught": ("import os\nwhile True:\n    try: os.fork()\n    except OSError: pass", PROCESSES),
        "thread": (
            "import threading,time\nwhile True: threading.Thread(target=time.sleep,args=(60,)).start()",
            PROCESSES,
        ),
        "subprocess": (
            "import subprocess\np=[]\nwhile True: p.append(subprocess.Popen(['sleep','60']))",
            (*PROCESSES, "runtime_error"),
        ),
        "double-fork": (
            "import os,time\nif os.fork()==0:\n    os.setsid()\n    if os.fork()==0: time.sleep(99)\n    os._exit(0)\nprint(1)",
            WRONG,
        ),
        "daemon-holds-output": (
            "import os,time\nif os.fork()==0:\n    os.setsid()\n    time.sleep(99)\nprint(1)\nos._exit(0)",
            WRONG,
        ),
        "memory": ("x=[]\nwhile True: x.append(bytearray(1<<20))", MEMORY),
        "memory-at-once": ("x=bytearray(1<<40)", MEMORY),
        "memory-in-children": (
            "import os,time\nfor _ in range(4):\n    if os.fork()==0:\n        x=bytearray(90<<20)\n        time.sleep(30)\n        os._exit(0)\ntime.sleep(30)",
            MEMORY,
        ),
        "memory-shared": (
            "import mmap,time\nm=mmap.mmap(-1,400<<20)\nfor i in range(0,400<<20,4096): m[i]=1\ntime.sleep(1)",
            MEMORY,
        ),
        "disk": ("for i in range(10**6): open(f'/tmp/{i}','wb').write(b'x'*(1<<20))", OUTPUT),
        "one-file": ("f=open('/tmp/x','wb')\nwhile True: f.write(b'x'*(1<<20))", OUTPUT),
        "shm": ("for i in range(10**6): open(f'/dev/shm/{i}','wb').write(b'x'*(1<<20))", OUTPUT),
        "inodes": ("for i in range(10**6): open(f'/tmp/{i}','w').close()", OUTPUT),
        "output": ("while True: print('x'*4096)", OUTPUT),
        "errors": ("import sys\nwhile True: sys.stderr.write('x'*4096)", OUTPUT),
        "descriptors": ("f=[]\nwhile True: f.append(open('/dev/null'))", ("runtime_error",)),
        "recursion": ("def f(): f()\nf()", ("runtime_error",)),
        "stack": (
            "import sys,threading\nsys.setrecursionlimit(10**9)\nclass A:\n    def __repr__(s): return repr(s)\nrepr(A())",
            ("runtime_error", *MEMORY),
        ),
        "big-integer": ("print(len(str(10**(10**9))))", (*TIME, *MEMORY, "runtime_error")),
        "regular-expression": ("import re\nre.match('(a+)+$','a'*64+'b')", TIME),
    },
)
TIMING = _family(
    "time",
    STDIN,
    {
        "loop": ("while True: pass", TIME),
        "sleep": ("import time\ntime.sleep(1000)", TIME),
        "wait-for-input": ("import os\nr,w=os.pipe()\nos.read(r,1)", TIME),
        "swallow-alarm": (
            "import time\nwhile True:\n    try:\n        while True: time.sleep(0.1)\n    except BaseException: pass",
            TIME,
        ),
        "set-clock": (_SYSCALL + "libc.settimeofday(ctypes.create_string_buffer(16),None)\nprint('ESCAPED')", DENIED),
        "adjust-clock": (_SYSCALL + "import time\ntime.clock_settime(0,0)\nprint('ESCAPED')", DENIED),
        "patched-clock": (
            "import time\ntime.monotonic=time.time=time.perf_counter=lambda: 0.0\nwhile True: pass",
            TIME,
        ),
        "thread-left-behind": ("import threading,time\nthreading.Thread(target=time.sleep,args=(60,)).start()", TIME),
        "raise-limit": ("import resource\nresource.setrlimit(resource.RLIMIT_CPU,(-1,-1))\nprint('ESCAPED')", BAD),
        "exit-hangs": ("import atexit,time\natexit.register(time.sleep,60)", TIME),
    },
)
NETWORK = _family(
    "network",
    STDIN,
    {
        "tcp": "import socket\nsocket.create_connection(('1.1.1.1',53),1)\nprint('ESCAPED')",
        "tcp-loopback": "import socket\nsocket.create_connection(('127.0.0.1',PORT),1)\nprint('ESCAPED')",
        "udp": "import socket\ns=socket.socket(socket.AF_INET,socket.SOCK_DGRAM)\ns.sendto(b'x',('1.1.1.1',53))\nprint('ESCAPED')",
        "raw": "import socket\nsocket.socket(socket.AF_INET,socket.SOCK_RAW,1)\nprint('ESCAPED')",
        "packet": "import socket\nsocket.socket(socket.AF_PACKET,socket.SOCK_RAW)\nprint('ESCAPED')",
        "netlink": "import socket\nsocket.socket(socket.AF_NETLINK,socket.SOCK_RAW,0)\nprint('ESCAPED')",
        "ipv6": "import socket\nsocket.create_connection(('::1',PORT),1)\nprint('ESCAPED')",
        "dns": "import socket\nprint('ESCAPED',socket.getaddrinfo('example.org',80))",
        "abstract-socket": "import socket\ns=socket.socket(socket.AF_UNIX)\ns.connect('\\0ABSTRACT')\nprint('ESCAPED')",
        "path-socket": "import socket\ns=socket.socket(socket.AF_UNIX)\ns.connect('SOCKET')\nprint('ESCAPED')",
        "vsock": "import socket\nsocket.socket(40,socket.SOCK_STREAM)\nprint('ESCAPED')",
        "curl": "import subprocess\nr=subprocess.run(['curl','-s','-m','2','http://127.0.0.1:PORT'])\nprint('ESCAPED' if r.returncode==0 else 'no')",
    },
)
TWO_LINES = [{"stdin": "", "stdout": "12\n34\n"}]
OUTPUT_CHEATS = _family(
    "forging-output",
    TWO_LINES,
    {
        "first-line-alone": ("print(12)", WRONG),
        "last-line-alone": ("print(34)", WRONG),
        "nothing": ("pass", WRONG),
        "more-than-asked": ("for i in range(100): print(i)", WRONG),
        "not-a-number": ("print('nan')\nprint('nan')", WRONG),
        "nul-bytes": ("print('12\\0')\nprint(34)", WRONG),
        "on-standard-error": ("import sys\nprint('12\\n34',file=sys.stderr)", WRONG),
        "all-numbers-on-one-line": ("print('1','2','3','4')", WRONG),
    },
)
IN_PLACE = [{"function": "f", "args": [[3, 1], [9]], "expected": [1, 3]}]
ARGUMENT_CHEATS = _family(
    "rewriting-arguments",
    IN_PLACE,
    {
        "emptied": "def f(x, y):\n    x.clear()\n    y.clear()\n    return x",
        "returned": "def f(x, y): return y",
        "both": "def f(x, y): return x, y",
        "replaced-by-frames": """
import sys
def f(x, y):
    g = sys._getframe()
    while g:
        for v in g.f_locals.values():
            if isinstance(v, list): v[:] = [1, 3, 0]
            if isinstance(v, dict) and 'expected' in v: v['expected'] = x
        g = g.f_back
    return x""",
        "replaced-by-collector": """
import gc
def f(x, y):
    for o in gc.get_objects():
        if type(o) is list and o == [1, 3]: o[:] = x
    return x""",
    },
)
ATTACKS = [
    *OUTPUT_CHEATS,
    *ARGUMENT_CHEATS,
    *READING,
    *WRITING,
    *STEALING,
    *STEALING_ASSERTS,
    *FORGING,
    *FORGING_ASSERTS,
    *ESCAPING,
    *SIGNALS,
    *BOMBS,
    *TIMING,
    *NETWORK,
]
