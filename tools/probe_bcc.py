"""Can bcc compile and load a TC program here? Exit code 0, or 1 and the reason as the last line."""

import sys

PROGRAM = """
#include <uapi/linux/bpf.h>
#include <uapi/linux/pkt_cls.h>
int probe(struct __sk_buff *skb) { return TC_ACT_OK; }
"""


def main() -> str | None:
    try:
        from bcc import BPF
    except ImportError as error:
        return f"bcc is not importable ({error}): Debian's python3-bpfcc, linked into .venv"
    try:
        BPF(text=PROGRAM).load_func("probe", BPF.SCHED_CLS)
    except Exception as error:  # bcc raises bare Exceptions
        return f"{error}"
    return None


if __name__ == "__main__":
    sys.exit(main())
