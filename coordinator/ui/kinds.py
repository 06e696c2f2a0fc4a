"""The collections that are edited alike: where the API has them, and what their forms ask."""

from __future__ import annotations

import re
from dataclasses import dataclass

from coordinator.access import ADMIN_ROLES, AdminRole
from coordinator.ui.forms import FLAG, Field

_NAME_HINT = "1 to 63 letters, digits, “-”, “_” or “.”"
ROLES = (
    ("client", "client: meets gateways only"),
    ("gateway", "gateway: forwards to what lies behind it"),
    ("mesh", "mesh: meets every other mesh node"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """One collection.

    slug      below /ui
    path      below /api/v1
    key       the field that names an object
    columns   (field, heading) of the list
    finds     (parameter, label) of what is looked for
    writer    the least role that changes it
    leftover  the field that a fault of the object itself is shown at
    faults    what stands before a field's name in the path of a fault
    removal   what deleting one is called
    """

    slug: str
    path: str
    one: str
    many: str
    about: str
    fields: tuple[Field, ...]
    columns: tuple[tuple[str, str], ...]
    finds: tuple[tuple[str, str], ...] = (("name_contains", "Name contains"),)
    writer: AdminRole = "editor"
    key: str = "name"
    leftover: str = ""
    faults: str = ""
    can_create: bool = True
    can_edit: bool = True
    can_delete: bool = True
    removal: str = "Delete"
    warning: str = ""

    def prefix(self, name: str) -> re.Pattern[str]:
        """What to take from the path of a fault, of the object NAME."""
        own = rf"(\[[0-9]+\]|\.{re.escape(name)}(?![A-Za-z0-9_-]))" if name else r"\[[0-9]+\]"
        return re.compile(rf"^(?:{self.faults}){own}\.?")


NODES = Kind(
    slug="nodes",
    path="/nodes",
    one="node",
    many="Nodes",
    about="Machines that are enrolled. A setup key lets another one in.",
    fields=(
        Field(name="name", label="Name", hint=_NAME_HINT),
        Field(
            name="identity",
            label="Identity",
            hint="What policy calls it; several nodes may share one.",
            names="identities",
        ),
        Field(
            name="endpoint",
            label="Endpoint",
            type="optional",
            hint="HOST:PORT where others reach its WireGuard; empty: it has none and dials itself.",
        ),
    ),
    columns=(),
    finds=(("name_contains", "Name contains"), ("client_id", "Client ID, or a former one")),
    faults="nodes",
    can_create=False,
    removal="Revoke",
    warning="Its traffic stops network-wide at once, and the same key never comes back. "
    "It stays in the logs.",
)
GATEWAYS = Kind(
    slug="gateways",
    path="/gateways",
    one="gateway",
    many="Gateways",
    about="Nodes that clients connect to, and what each offers. To be rid of one, revoke the node.",
    fields=(
        Field(
            name="endpoint",
            label="Endpoint",
            type="optional",
            hint="HOST:PORT where clients reach its WireGuard.",
        ),
        Field(
            name="is_drained",
            label="Drained",
            type="flag",
            choices=FLAG,
            hint="Of what other gateways offer too, clients use nothing through a drained one.",
        ),
    ),
    columns=(),
    faults="nodes",
    can_create=False,
    can_delete=False,
)
IDENTITIES = Kind(
    slug="identities",
    path="/identities",
    one="identity",
    many="Identities",
    about="Whom policy speaks of. Its tag is what packets carry.",
    fields=(Field(name="name", label="Name", hint=_NAME_HINT),),
    columns=(("name", "Name"), ("tag", "Tag")),
    leftover="name",
    faults="identities",
    can_edit=False,
)
GROUPS = Kind(
    slug="groups",
    path="/groups",
    one="group",
    many="Groups",
    about="Sets of identities that a rule can name at once.",
    fields=(
        Field(name="name", label="Name", hint=_NAME_HINT, is_fixed=True),
        Field(
            name="members",
            label="Members",
            type="words",
            hint="Identities or resources, one a line.",
        ),
    ),
    columns=(("name", "Name"), ("members", "Members")),
    leftover="members",
    faults="groups",
)
RESOURCES = Kind(
    slug="resources",
    path="/resources",
    one="resource",
    many="Resources",
    about="Networks behind a gateway, which policy names like an identity.",
    fields=(
        Field(name="name", label="Name", hint=_NAME_HINT, is_fixed=True),
        Field(name="cidr", label="Prefix", hint="For example 192.0.2.0/24 or 2001:db8::/48."),
        Field(name="gateway", label="Gateway", hint="The node it lies behind.", names="gateways"),
        Field(
            name="priority",
            label="Priority",
            type="number",
            hint="Counts where other gateways offer it too: the lowest goes first.",
            value="100",
        ),
        Field(
            name="alternatives",
            label="Other gateways",
            type="offers",
            hint="Each with its priority, one a line: gw2 200. May be empty.",
        ),
        Field(
            name="via",
            label="Routers",
            type="words",
            hint="Addresses on the way to it whose ICMP errors must get through; may be empty.",
        ),
    ),
    columns=(
        ("name", "Name"),
        ("cidr", "Prefix"),
        ("gateway", "Gateway"),
        ("alternatives", "Others"),
        ("in_use", "In use"),
        ("via", "Routers"),
        ("tag", "Tag"),
    ),
    leftover="name",
    faults="resources",
)
RULES = Kind(
    slug="rules",
    path="/policy/rules",
    one="rule",
    many="Rules",
    about="Deny beats allow, and their order never matters.",
    fields=(
        Field(name="id", label="Id", hint=_NAME_HINT, is_fixed=True),
        Field(
            name="from",
            label="From",
            hint="An identity, group or resource, “world”, or “*” for all that are known.",
            names="principals",
        ),
        Field(name="to", label="To", hint="Likewise.", names="principals"),
        Field(
            name="proto",
            label="Protocol",
            type="proto",
            hint="tcp, udp, icmp, a number, or any (when empty).",
            names="protocols",
        ),
        Field(
            name="ports",
            label="Ports",
            type="ports",
            hint="Only with tcp or udp: 8080, 9000-9010; empty: all of them.",
        ),
        Field(
            name="icmp_types",
            label="ICMP types",
            type="ports",
            hint="Only with icmp: echo-request, destination-unreachable, …; empty: all of them.",
        ),
        Field(
            name="action",
            label="Action",
            type="choice",
            choices=(("allow", "allow"), ("deny", "deny")),
            value="allow",
        ),
    ),
    columns=(
        ("id", "Id"),
        ("from", "From"),
        ("to", "To"),
        ("proto", "Protocol"),
        ("ports", "Ports"),
        ("icmp_types", "ICMP types"),
        ("action", "Action"),
    ),
    finds=(("id_contains", "Id contains"), ("from", "From"), ("to", "To")),
    key="id",
    faults=r"(?:policy\.)?rules",
)
SETUP_KEYS = Kind(
    slug="setup-keys",
    path="/setup-keys",
    one="setup key",
    many="Setup keys",
    about="What lets a machine enrol. The key itself is shown once, when it is made.",
    fields=(
        Field(
            name="name",
            label="Node name",
            type="optional",
            hint="Only a node of this name may use it; empty: any name.",
        ),
        Field(name="role", label="Role", type="choice", choices=ROLES, value="client"),
        Field(
            name="identity",
            label="Identity",
            type="optional",
            hint="What the node will be; empty: an identity of its own, named like it.",
            names="identities",
        ),
        Field(
            name="group",
            label="Group",
            type="optional",
            hint="Which an identity of its own joins; not with a shared identity.",
            names="groups",
        ),
        Field(name="uses", label="Uses", type="number", hint="How many nodes.", value="1"),
        Field(
            name="ttl_s",
            label="Valid for (seconds)",
            type="number",
            hint="86400 is a day.",
            value="86400",
        ),
    ),
    columns=(
        ("name", "Node"),
        ("role", "Role"),
        ("identity", "Identity"),
        ("group", "Group"),
        ("uses_left", "Uses left"),
        ("created_at", "Made"),
        ("expires_at", "Expires"),
    ),
    writer="owner",
    key="id",
    faults="setup-keys",
    can_edit=False,
    removal="Revoke",
)
TOKENS = Kind(
    slug="administrators",
    path="/tokens",
    one="administrator",
    many="Administrators",
    about="Who may use this page and the API. The token itself is shown once, when it is made.",
    fields=(
        Field(name="name", label="Name", hint=_NAME_HINT, is_fixed=True),
        Field(
            name="role",
            label="Role",
            type="choice",
            choices=(
                ("viewer", "viewer: reads"),
                ("editor", "editor: writes as well"),
                ("owner", "owner: also setup keys and administrators"),
            ),
            value="viewer",
        ),
    ),
    columns=(("name", "Name"), ("role", "Role"), ("created_at", "Made")),
    writer="owner",
    faults="tokens",
    warning="The token is worth nothing any more, and every browser opened with it is logged out.",
)
AUDIT = Kind(
    slug="audit",
    path="/audit",
    one="change",
    many="Audit",
    about="Who changed what, the newest first. Rows are only ever added, and each carries the hash "
    "of the one before.",
    fields=(),
    columns=(),
    finds=(("actor", "Who"), ("action", "Action"), ("kind", "Kind"), ("name", "Name")),
    can_create=False,
    can_edit=False,
)
REVISIONS = Kind(
    slug="revisions",
    path="/revisions",
    one="revision",
    many="Revisions",
    about="What was written at each revision, the newest first.",
    fields=(),
    columns=(),
    finds=(("actor", "Who"),),
    can_create=False,
    can_edit=False,
)
KINDS = {
    kind.slug: kind
    for kind in (NODES, GATEWAYS, IDENTITIES, GROUPS, RESOURCES, RULES, SETUP_KEYS, TOKENS)
}


def may(role: str, needed: AdminRole) -> bool:
    """May somebody with ROLE do what NEEDED may?"""
    ranks = {name: rank for rank, name in enumerate(ADMIN_ROLES)}
    return role in ranks and ranks[role] >= ranks[needed]
