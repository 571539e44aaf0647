"""The seccomp filter: an allow-list of system calls, compiled to a balanced tree of classic BPF comparisons.

Three answers beside "allow". Calls that no honest program of any supported language makes (mounting, tracing, loading
kernel code, new namespaces, io_uring, bpf, keys) end the process with SIGSYS, which the verdict reports as ``denied``.
Everything else that is not listed fails with EPERM, and calls that a C library probes for (clone3, memfd_create,
numbers newer than this table) fail with ENOSYS so that it takes its older way.

A tree and not a list, because the kernel runs the whole filter once for each call number when it is loaded.

It is loaded in two parts, because the kernel compiles a filter each time it is loaded. The zygote loads the whole list
once, with leave for the few calls that it needs to isolate a run (``_SETUP``), and every run inherits it. The run
itself loads, as its last step, a short filter that takes that leave away. The kernel asks all filters and does what the
strictest says, and no filter can be taken off: a program gets exactly the answers of the one full list.
"""

from __future__ import annotations

import struct

from sandbox.kernel import MACHINE


def _table(text: str) -> dict[str, int]:
    return {name: int(number) for name, number in (item.split("=") for item in text.split())}


# fmt: off
_ALLOWED_X86_64 = _table("""
read=0 write=1 readv=19 writev=20 pread64=17 pwrite64=18 preadv=295 pwritev=296 preadv2=327 pwritev2=328 lseek=8
close=3 close_range=436 dup=32 dup2=33 dup3=292 pipe=22 pipe2=293 open=2 openat=257 openat2=437 creat=85
access=21 faccessat=269 faccessat2=439 stat=4 fstat=5 lstat=6 newfstatat=262 statx=332 statfs=137 fstatfs=138
readlink=89 readlinkat=267 getdents=78 getdents64=217 getcwd=79 chdir=80 fchdir=81 mkdir=83 mkdirat=258 rmdir=84
unlink=87 unlinkat=263 rename=82 renameat=264 renameat2=316 link=86 linkat=265 symlink=88 symlinkat=266
mknod=133 mknodat=259
truncate=76 ftruncate=77 fallocate=285 fsync=74 fdatasync=75 sync_file_range=277 fadvise64=221 readahead=187
chmod=90 fchmod=91 fchmodat=268 fchmodat2=452 umask=95 utime=132 utimes=235 utimensat=280 futimesat=261
getxattr=191 lgetxattr=192 fgetxattr=193 listxattr=194 llistxattr=195 flistxattr=196 flock=73 fcntl=72 ioctl=16
sendfile=40 splice=275 tee=276 copy_file_range=326 inotify_init=253 inotify_init1=294 inotify_add_watch=254
inotify_rm_watch=255 mmap=9 munmap=11 mprotect=10 mremap=25 madvise=28 msync=26 mincore=27 brk=12 mlock=149
munlock=150 mlock2=325 mlockall=151 munlockall=152 membarrier=324 get_mempolicy=239 pkey_alloc=330 pkey_free=331
pkey_mprotect=329 rt_sigaction=13 rt_sigprocmask=14 rt_sigreturn=15 rt_sigsuspend=130 rt_sigpending=127
rt_sigtimedwait=128 rt_sigqueueinfo=129 rt_tgsigqueueinfo=297 sigaltstack=131 restart_syscall=219 pause=34
kill=62 tkill=200 tgkill=234 signalfd=282 signalfd4=289 eventfd=284 eventfd2=290 timerfd_create=283
timerfd_settime=286 timerfd_gettime=287 nanosleep=35 clock_nanosleep=230 clock_gettime=228 clock_getres=229
gettimeofday=96 time=201 times=100 alarm=37 getitimer=36 setitimer=38 timer_create=222 timer_settime=223
timer_gettime=224 timer_getoverrun=225 timer_delete=226 fork=57 vfork=58 clone=56 execve=59 execveat=322 exit=60
exit_group=231 wait4=61 waitid=247 set_tid_address=218 set_robust_list=273 get_robust_list=274 futex=202
futex_waitv=449 rseq=334 getpid=39 getppid=110 gettid=186 getuid=102 geteuid=107 getgid=104 getegid=108
getgroups=115 getresuid=118 getresgid=120 getpgid=121 getpgrp=111 setpgid=109 getsid=124 setsid=112 setuid=105
setgid=106 setreuid=113 setregid=114 setresuid=117 setresgid=119 setgroups=116 capget=125 uname=63 sysinfo=99
getrlimit=97 setrlimit=160 prlimit64=302 getrusage=98 getcpu=309 getpriority=140 setpriority=141 sched_yield=24
sched_getaffinity=204 sched_setaffinity=203 sched_getparam=143 sched_getscheduler=145 sched_setscheduler=144
sched_setparam=142 sched_get_priority_max=146 sched_get_priority_min=147 sched_rr_get_interval=148 select=23
pselect6=270 poll=7 ppoll=271 epoll_create=213 epoll_create1=291 epoll_ctl=233 epoll_wait=232 epoll_pwait=281
epoll_pwait2=441 getrandom=318 arch_prctl=158 prctl=157 personality=135 ioprio_get=252 socketpair=53 bind=49
listen=50 accept=43 accept4=288 connect=42 getsockname=51 getpeername=52 sendto=44 recvfrom=45 sendmsg=46
recvmsg=47 sendmmsg=307 recvmmsg=299 shutdown=48 setsockopt=54 getsockopt=55 socket=41
""")
_ALLOWED_AARCH64 = _table("""
read=63 write=64 readv=65 writev=66 pread64=67 pwrite64=68 preadv=69 pwritev=70 preadv2=286 pwritev2=287
lseek=62 close=57 close_range=436 dup=23 dup3=24 pipe2=59 openat=56 openat2=437 faccessat=48 faccessat2=439
fstat=80 newfstatat=79 statx=291 statfs=43 fstatfs=44 readlinkat=78 getdents64=61 getcwd=17 chdir=49 fchdir=50
mkdirat=34 unlinkat=35 renameat=38 renameat2=276 linkat=37 symlinkat=36 mknodat=33 truncate=45 ftruncate=46 fallocate=47
fsync=82 fdatasync=83 sync_file_range=84 fadvise64=223 readahead=213 fchmod=52 fchmodat=53 fchmodat2=452
umask=166 utimensat=88 getxattr=8 lgetxattr=9 fgetxattr=10 listxattr=11 llistxattr=12 flistxattr=13 flock=32
fcntl=25 ioctl=29 sendfile=71 splice=76 tee=77 copy_file_range=285 inotify_init1=26 inotify_add_watch=27
inotify_rm_watch=28 mmap=222 munmap=215 mprotect=226 mremap=216 madvise=233 msync=227 mincore=232 brk=214
mlock=228 munlock=229 mlock2=284 mlockall=230 munlockall=231 membarrier=283 get_mempolicy=236 pkey_alloc=289
pkey_free=290 pkey_mprotect=288 rt_sigaction=134 rt_sigprocmask=135 rt_sigreturn=139 rt_sigsuspend=133
rt_sigpending=136 rt_sigtimedwait=137 rt_sigqueueinfo=138 rt_tgsigqueueinfo=240 sigaltstack=132
restart_syscall=128 kill=129 tkill=130 tgkill=131 signalfd4=74 eventfd2=19 timerfd_create=85 timerfd_settime=86
timerfd_gettime=87 nanosleep=101 clock_nanosleep=115 clock_gettime=113 clock_getres=114 gettimeofday=169
times=153 getitimer=102 setitimer=103 timer_create=107 timer_settime=110 timer_gettime=108 timer_getoverrun=109
timer_delete=111 clone=220 execve=221 execveat=281 exit=93 exit_group=94 wait4=260 waitid=95 set_tid_address=96
set_robust_list=99 get_robust_list=100 futex=98 futex_waitv=449 rseq=293 getpid=172 getppid=173 gettid=178
getuid=174 geteuid=175 getgid=176 getegid=177 getgroups=158 getresuid=148 getresgid=150 getpgid=155 setpgid=154
getsid=156 setsid=157 setuid=146 setgid=144 setreuid=145 setregid=143 setresuid=147 setresgid=149 setgroups=159
capget=90 uname=160 sysinfo=179 getrlimit=163 setrlimit=164 prlimit64=261 getrusage=165 getcpu=168
getpriority=141 setpriority=140 sched_yield=124 sched_getaffinity=123 sched_setaffinity=122 sched_getparam=121
sched_getscheduler=120 sched_setscheduler=119 sched_setparam=118 sched_get_priority_max=125
sched_get_priority_min=126 sched_rr_get_interval=127 pselect6=72 ppoll=73 epoll_create1=20 epoll_ctl=21
epoll_pwait=22 epoll_pwait2=441 getrandom=278 prctl=167 personality=92 ioprio_get=31 socketpair=199 bind=200
listen=201 accept=202 accept4=242 connect=203 getsockname=204 getpeername=205 sendto=206 recvfrom=207
sendmsg=211 recvmsg=212 sendmmsg=269 recvmmsg=243 shutdown=210 setsockopt=208 getsockopt=209 socket=198
""")
_FATAL_X86_64 = _table("""
ptrace=101 process_vm_readv=310 process_vm_writev=311 kcmp=312 process_madvise=440 process_mrelease=448
pidfd_getfd=438 mount=165 umount2=166 pivot_root=155 chroot=161 open_tree=428 move_mount=429 fsopen=430
fsconfig=431 fsmount=432 fspick=433 mount_setattr=442 unshare=272 setns=308 bpf=321 perf_event_open=298
keyctl=250 add_key=248 request_key=249 userfaultfd=323 io_uring_setup=425 io_uring_enter=426
io_uring_register=427 init_module=175 finit_module=313 delete_module=176 kexec_load=246 kexec_file_load=320
reboot=169 swapon=167 swapoff=168 acct=163 quotactl=179 quotactl_fd=443 syslog=103 lookup_dcookie=212
settimeofday=164 clock_settime=227 clock_adjtime=305 adjtimex=159 sethostname=170 setdomainname=171
open_by_handle_at=304 fanotify_init=300 iopl=172 ioperm=173 modify_ldt=154 vhangup=153 nfsservctl=180
create_module=174 get_kernel_syms=177 query_module=178 uselib=134 _sysctl=156 sysfs=139 ustat=136
""")
_FATAL_AARCH64 = _table("""
ptrace=117 process_vm_readv=270 process_vm_writev=271 kcmp=272 process_madvise=440 process_mrelease=448
pidfd_getfd=438 mount=40 umount2=39 pivot_root=41 chroot=51 open_tree=428 move_mount=429 fsopen=430 fsconfig=431
fsmount=432 fspick=433 mount_setattr=442 unshare=97 setns=268 bpf=280 perf_event_open=241 keyctl=219 add_key=217
request_key=218 userfaultfd=282 io_uring_setup=425 io_uring_enter=426 io_uring_register=427 init_module=105
finit_module=273 delete_module=106 kexec_load=104 kexec_file_load=294 reboot=142 swapon=224 swapoff=225 acct=89
quotactl=60 quotactl_fd=443 syslog=116 lookup_dcookie=18 settimeofday=170 clock_settime=112 clock_adjtime=266
adjtimex=171 sethostname=161 setdomainname=162 open_by_handle_at=265 fanotify_init=262 vhangup=58 nfsservctl=42
""")
_SETUP_X86_64 = _table("""
mount=165 unshare=272 setns=308 capset=126 seccomp=317 landlock_create_ruleset=444 landlock_add_rule=445
landlock_restrict_self=446 pidfd_open=434 pidfd_send_signal=424
""")
_SETUP_AARCH64 = _table("""
mount=40 unshare=97 setns=268 capset=91 seccomp=277 landlock_create_ruleset=444 landlock_add_rule=445
landlock_restrict_self=446 pidfd_open=434 pidfd_send_signal=424
""")
# fmt: on

_SETUP = frozenset((_SETUP_X86_64 if MACHINE == "x86_64" else _SETUP_AARCH64).values())
_ALLOW, _KILL_PROCESS, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
_EPERM, _ENOSYS, _EAFNOSUPPORT = _ERRNO | 1, _ERRNO | 38, _ERRNO | 97

_LOAD, _JUMP_EQUAL, _JUMP_GREATER_EQUAL, _JUMP_SET, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_NUMBER, _ARCHITECTURE, _ARGUMENT_0, _ARGUMENT_1 = 0, 4, 16, 24

_AF_UNIX = 1
_TIOCSTI, _TIOCLINUX = 0x5412, 0x541C
_NAMESPACE_FLAGS = 0x7E020000
_PERSONALITY_QUERY = 0xFFFFFFFF
_X32_BIT = 0x40000000
_LAST_KNOWN_CALL = 450

Instruction = tuple[int, int, int, int]
Rules = dict[int, list[Instruction]]
"""The code for each call number that a filter names; it ends with an answer."""


def _statement(code: int, value: int) -> Instruction:
    return (code, 0, 0, value)


def _answer(value: int) -> list[Instruction]:
    return [_statement(_RETURN, value)]


def _compare(argument: int, test: int, value: int, if_true: int, otherwise: int) -> list[Instruction]:
    return [_statement(_LOAD, argument), (test, 0, 1, value), *_answer(if_true), *_answer(otherwise)]


def _rules() -> Rules:
    """What each listed call number gets; the others get EPERM."""
    x86 = MACHINE == "x86_64"
    allowed = _ALLOWED_X86_64 if x86 else _ALLOWED_AARCH64
    fatal = _FATAL_X86_64 if x86 else _FATAL_AARCH64
    rules = {number: _answer(_ALLOW) for number in allowed.values()}
    rules |= {number: _answer(_KILL_PROCESS) for number in fatal.values()}
    rules[435] = _answer(_ENOSYS)  # clone3 hides its flags in memory, where a filter cannot read them
    rules[319 if x86 else 279] = _answer(_ENOSYS)  # memfd_create: memory that no file system limit sees
    rules[allowed["clone"]] = _compare(_ARGUMENT_0, _JUMP_SET, _NAMESPACE_FLAGS, _KILL_PROCESS, _ALLOW)
    rules[allowed["socket"]] = _compare(_ARGUMENT_0, _JUMP_EQUAL, _AF_UNIX, _ALLOW, _EAFNOSUPPORT)
    rules[allowed["personality"]] = _compare(_ARGUMENT_0, _JUMP_EQUAL, _PERSONALITY_QUERY, _ALLOW, _EPERM)
    rules[allowed["ioctl"]] = [
        _statement(_LOAD, _ARGUMENT_1),
        (_JUMP_EQUAL, 1, 0, _TIOCSTI),
        (_JUMP_EQUAL, 0, 1, _TIOCLINUX),
        *_answer(_EPERM),
        *_answer(_ALLOW),
    ]
    return rules


def _tree(ranges: list[tuple[int, list[Instruction]]]) -> list[Instruction]:
    """A binary search over (first call number, code) ranges; each leaf returns."""
    if len(ranges) == 1:
        return ranges[0][1]
    middle = len(ranges) // 2
    low, high = _tree(ranges[:middle]), _tree(ranges[middle:])
    return [(_JUMP_GREATER_EQUAL, len(low), 0, ranges[middle][0]), *low, *high]


def program(rules: Rules, unlisted: int, newer: int) -> bytes:
    """A filter for this machine as an array of ``struct sock_filter``. Numbers without a rule are answered with
    ``unlisted``, those past the table with ``newer``."""
    ranges: list[tuple[int, list[Instruction]]] = []
    for number in range(_LAST_KNOWN_CALL + 1):
        code = rules.get(number, _answer(unlisted))
        if not ranges or ranges[-1][1] != code:
            ranges.append((number, code))
    for number in sorted(n for n in rules if n > _LAST_KNOWN_CALL):
        ranges += [(_LAST_KNOWN_CALL + 1, _answer(newer)), (number, rules[number])]
    ranges.append((max(_LAST_KNOWN_CALL, *rules) + 1, _answer(newer)))
    x86 = MACHINE == "x86_64"
    code = [
        _statement(_LOAD, _ARCHITECTURE),
        (_JUMP_EQUAL, 1, 0, 0xC000003E if x86 else 0xC00000B7),
        *_answer(_KILL_PROCESS),
        _statement(_LOAD, _NUMBER),
    ]
    if x86:
        code += [(_JUMP_GREATER_EQUAL, 0, 1, _X32_BIT), *_answer(_KILL_PROCESS)]
    code += _tree(ranges)
    return b"".join(struct.pack("HBBI", *instruction) for instruction in code)


def full_list() -> bytes:
    """What the two parts amount to."""
    return program(_rules(), _EPERM, _ENOSYS)


def zygote_part() -> bytes:
    return program(_rules() | dict.fromkeys(_SETUP, _answer(_ALLOW)), _EPERM, _ENOSYS)


def run_part() -> bytes:
    rules = _rules()
    return program({number: rules.get(number, _answer(_EPERM)) for number in _SETUP}, _ALLOW, _ALLOW)
