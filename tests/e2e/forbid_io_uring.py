#!/usr/bin/env python3
"""Runs a command in which the io_uring system calls fail: forbid_io_uring.py ERRNO COMMAND…

As a container's seccomp profile (EPERM) or an old kernel (ENOSYS) would have it. Linux only; the
numbers of the three calls are the same on all architectures. Standard library only.
"""

import ctypes
import errno
import os
import struct
import sys

IO_URING_SETUP, IO_URING_ENTER, IO_URING_REGISTER = 425, 426, 427
PR_SET_NO_NEW_PRIVS = 38
PR_SET_SECCOMP = 22
SECCOMP_MODE_FILTER = 2
SECCOMP_RET_ALLOW = 0x7fff0000
SECCOMP_RET_ERRNO = 0x00050000
BPF_LOAD_WORD = 0x20       # BPF_LD | BPF_W | BPF_ABS
BPF_JUMP_IF_EQUAL = 0x15   # BPF_JMP | BPF_JEQ | BPF_K
BPF_RETURN = 0x06          # BPF_RET | BPF_K


def instruction(code, jump_true, jump_false, operand):
    return struct.pack("HBBI", code, jump_true, jump_false, operand)


def forbid(number):
    program = b"".join((
        instruction(BPF_LOAD_WORD, 0, 0, 0),  # seccomp_data.nr
        instruction(BPF_JUMP_IF_EQUAL, 3, 0, IO_URING_SETUP),
        instruction(BPF_JUMP_IF_EQUAL, 2, 0, IO_URING_ENTER),
        instruction(BPF_JUMP_IF_EQUAL, 1, 0, IO_URING_REGISTER),
        instruction(BPF_RETURN, 0, 0, SECCOMP_RET_ALLOW),
        instruction(BPF_RETURN, 0, 0, SECCOMP_RET_ERRNO | number),
    ))
    code = ctypes.create_string_buffer(program, len(program))
    filter_program = struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(code))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 or \
            libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, filter_program, 0, 0) != 0:
        sys.exit("seccomp: %s" % os.strerror(ctypes.get_errno()))


def main():
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    forbid(getattr(errno, sys.argv[1]))
    os.execv(sys.argv[2], sys.argv[2:])


if __name__ == "__main__":
    main()
