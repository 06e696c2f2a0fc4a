"""WireGuard on this host: the kernel's through netlink, or wireguard-go through its UAPI socket."""
