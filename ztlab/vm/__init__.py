"""Guests: a command on another kernel, over this machine's file system, for a moment.

kernels.py   which kernels are at hand, and what each can do
engine.py    what runs them: KVM, User Mode Linux or QEMU's emulation, and why that one
job.py       a command, as the guest reads it, and the names that both sides know
uml.py, qemu.py, initramfs.py   how a guest is started
guest.py     a guest from its start to its end: output, watchdogs, exit code
passing.py   temporary folders that go away even if we are killed
run.py       all of it: `run(command)`
build.py     the UML kernel, made from Debian's sources
guest-init   the first process of every guest
"""
