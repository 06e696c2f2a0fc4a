"""What a person does at the pages, in a real browser against a real coordinator over TLS."""

from __future__ import annotations

from contextlib import closing

import pytest

from tests.control.process import Coordinator, Keys
from tests.ui.conftest import DESKTOP, PHONE, complaints, log_in, shot
from tests.ui.webdriver import ENTER, SPACE, TAB, Browser, DriverError, Element
from ztlab.model.management import ANY_TAG

pytestmark = pytest.mark.browser
SECTIONS = (
    "",
    "nodes",
    "gateways",
    "identities",
    "groups",
    "resources",
    "policy",
    "reachability",
    "logs",
    "audit",
    "revisions",
    "setup-keys",
    "administrators",
)


def test_an_owner_logs_in_with_a_token_and_a_wrong_one_is_told_so(
    page: Browser, coordinator: Coordinator
) -> None:
    page.fill(token="zta_wrong")
    page.press("Log in")
    assert page.one("#fault").text == "This is no administrator’s token."
    shot(page, "login-refused")
    complaints(page)  # the console notes the 401
    log_in(page, coordinator.owner)
    assert page.one("h1").text == "Overview"
    (cookie,) = [c for c in page.cookies() if c["name"] == "__Host-ztlab"]
    assert cookie["httpOnly"] and cookie["secure"] and cookie["sameSite"] == "Strict"
    assert page.run("return document.cookie") == ""
    shot(page, "overview")


def test_a_node_enrols_with_a_key_made_on_the_page(
    inside: Browser, coordinator: Coordinator
) -> None:
    inside.link("Setup keys").click()
    inside.link("New setup key").click()
    inside.fill(name="anna", uses="1")
    inside.choose("role", "mesh")
    inside.press("Save")
    key = inside.one("textarea.secret").property("value")
    shot(inside, "setup-key")
    keys = Keys()
    coordinator.node().enrol(
        setup_key=key, public_key=keys.public, name="anna", endpoint=None, prove=keys.prove
    )
    inside.link("Nodes").click()
    row = inside.one("tbody tr").text
    assert "anna" in row and "mesh" in row and "nothing acknowledged" in row
    shot(inside, "nodes")
    inside.link("anna").click()
    assert inside.one("h1").text == "anna"
    assert keys.public in inside.text
    shot(inside, "node")


def test_a_name_that_is_none_is_refused_beside_its_field(inside: Browser) -> None:
    inside.link("Identities").click()
    inside.link("New identity").click()
    inside.fill(name="no name")
    inside.press("Save")
    field = inside.one("[name=name][aria-invalid=true]")
    described = (field.attribute("aria-describedby") or "").split()
    faults = [inside.one(f"#{each}").text for each in described]
    assert any("want a name of 1 to 63 letters" in fault for fault in faults)
    assert inside.focused.attribute("name") == "name"
    shot(inside, "refused")
    field.type("web")
    inside.press("Save")
    assert "web" in inside.one("table").text


def cell(page: Browser, source: str, destination: str) -> Element:
    """What the matrix says of the two."""
    return page.one(f'.matrix a[aria-label^="{source} to {destination}: "]')


def test_a_rule_changes_the_matrix_a_bad_one_nothing_and_it_is_rolled_back(
    inside: Browser, coordinator: Coordinator
) -> None:
    for name in ("front", "back"):
        inside.open(f"{coordinator.url}/ui/identities/new")
        inside.fill(name=name)
        inside.press("Save")
        inside.until(lambda: inside.url.endswith("/ui/identities"), "the list")
    inside.link("Reachability").click()
    assert cell(inside, "front", "back").text == "✗"
    inside.link("Revisions").click()
    before = inside.one("tbody tr a").attribute("href")
    assert before is not None

    inside.link("Policy").click()
    inside.link("New rule").click()
    inside.fill(**{"id": "front-to-back", "from": "front", "to": "bakc", "proto": "tcp"})
    inside.fill(ports="8080")
    inside.press("Save")
    assert 'did you mean "back"?' in inside.one("#e-to").text
    assert inside.focused.attribute("name") == "to"
    shot(inside, "rule-refused")
    inside.fill(to="back")
    inside.press("Save")
    inside.until(lambda: inside.url.endswith("/ui/policy"), "the policy")
    shot(inside, "policy")

    inside.link("Reachability").click()
    assert cell(inside, "front", "back").text == "~ tcp 8080"
    assert cell(inside, "back", "front").text == "✗"
    cell(inside, "front", "back").click()
    why = inside.one("#why").text
    assert "some allowed" in why and "front-to-back: allow from front to back, tcp 8080" in why
    shot(inside, "reachability")
    inside.size(*PHONE)
    assert inside.run("return document.documentElement.scrollWidth") <= PHONE[0]
    shot(inside, "phone-light-why")
    inside.size(*DESKTOP)

    inside.open(f"{coordinator.url}{before}")
    assert "rule front-to-back" in inside.one("main").text
    shot(inside, "revision")
    inside.press("Roll back")
    inside.until(lambda: inside.url.endswith("/ui/revisions"), "the revisions")
    assert "delete rule front-to-back" in inside.one("tbody tr").text
    inside.link("Reachability").click()
    assert cell(inside, "front", "back").text == "✗"
    inside.link("Audit").click()
    assert "rollback" in inside.text and "front-to-back" in inside.text
    shot(inside, "audit")
    inside.press("Verify the whole log")
    assert "Intact" in inside.one("main p").text


def test_of_two_who_edit_the_same_the_second_sees_both_versions(
    inside: Browser, coordinator: Coordinator
) -> None:
    with closing(coordinator.admin()) as admin:
        admin.put_group("shared", [], etag=None)
        inside.open(f"{coordinator.url}/ui/groups/shared/edit")
        admin.put_group("shared", ["world"], etag=ANY_TAG)
        inside.fill(members="")
        inside.press("Save")
        assert "somebody else changed it" in inside.one("[role=alert]").text
        assert inside.one("td[data-label=Theirs]").text == "world"
        shot(inside, "stale")
        assert [group.members for group in admin.groups(name="shared")] == [("world",)]
        inside.press("Save")
        inside.until(lambda: inside.url.endswith("/ui/groups"), "the list")
        assert [group.members for group in admin.groups(name="shared")] == [()]


def test_a_form_asks_what_it_would_change_and_enter_saves_it(
    inside: Browser, coordinator: Coordinator
) -> None:
    inside.open(f"{coordinator.url}/ui/identities/new")
    inside.keys("asked")
    inside.press("What would it change?")
    assert "create identity asked" in inside.one(".preview").text
    shot(inside, "preview")
    with closing(coordinator.admin()) as admin:
        assert admin.identities(name="asked") == ()
        inside.one("[name=name]").click()
        inside.keys(ENTER)
        inside.until(lambda: inside.url.endswith("/ui/identities"), "the list")
        assert [identity.name for identity in admin.identities(name="asked")] == ["asked"]


def test_a_form_is_filled_in_with_the_keyboard_alone(
    inside: Browser, coordinator: Coordinator
) -> None:
    inside.open(f"{coordinator.url}/ui/groups")
    inside.keys(TAB)
    assert inside.focused.text == "Skip to the content"
    inside.keys(ENTER + TAB)
    assert inside.focused.text == "New group"
    outline = inside.focused.css("outline-style"), inside.focused.css("outline-width")
    assert outline == ("solid", "3px")
    inside.keys(ENTER)
    assert inside.one("h1").text == "New group"
    assert inside.focused.attribute("name") == "name"
    inside.keys("team" + TAB)
    assert inside.focused.attribute("name") == "members"
    inside.keys(TAB)
    assert inside.focused.text == "Save"
    inside.keys(SPACE)
    inside.until(lambda: inside.url.endswith("/ui/groups"), "the list")
    assert "team" in inside.one("table").text


def test_a_gateway_is_drained_and_the_resource_says_which_other_one_has_it(
    inside: Browser, coordinator: Coordinator
) -> None:
    for name in ("east", "west"):
        coordinator.enrol(name, role="gateway")
    inside.link("Resources").click()
    inside.link("New resource").click()
    inside.fill(name="office", cidr="192.0.2.0/24", gateway="east", alternatives="west 100")
    inside.press("Save")
    fault = inside.one("#e-alternatives").text
    assert fault == "100 is that of gateway east, want another for gateway west"
    shot(inside, "resource-refused")
    inside.fill(alternatives="west 200")
    inside.press("Save")
    inside.until(lambda: inside.url.endswith("/ui/resources"), "the list")
    assert inside.one("tbody td[data-label='In use']").text == "east"
    assert inside.one("tbody td[data-label=Others]").text == "west (200)"

    inside.link("Gateways").click()
    inside.one("a[href='/ui/gateways/east/edit']").click()
    inside.choose("is_drained", "true")
    inside.press("What would it change?")
    assert "It would change 1 object" in inside.one("#preview").text
    inside.press("Save")
    inside.until(lambda: inside.url.endswith("/ui/gateways"), "the gateways")
    assert inside.one("td[data-label=Drained] .bad").text == "drained"
    shot(inside, "gateways")
    inside.link("Resources").click()
    assert inside.one("tbody td[data-label='In use']").text == "west"
    shot(inside, "resources")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_page_is_wider_than_a_phone(
    inside: Browser, coordinator: Coordinator, scheme: str
) -> None:
    inside.size(*PHONE)
    inside.prefer(scheme)
    for section in SECTIONS:
        inside.open(f"{coordinator.url}/ui/{section}")
        wide = inside.run("return document.documentElement.scrollWidth")
        assert wide <= PHONE[0], section
        head = inside.run("return document.querySelector('h1').getBoundingClientRect().top")
        assert head < PHONE[1] / 3, section  # what the page is about is seen at once
        shot(inside, f"phone-{scheme}-{section or 'overview'}")


def test_the_colours_follow_the_preference_and_can_be_read(
    inside: Browser, coordinator: Coordinator
) -> None:
    grounds = {}
    for scheme in ("light", "dark"):
        inside.prefer(scheme)
        inside.open(f"{coordinator.url}/ui/nodes")
        body = inside.one("body")
        ground, text = (_luminance(body.css(f)) for f in ("background-color", "color"))
        grounds[scheme] = ground
        # WCAG 2.2, 1.4.6: the contrast of text is at least 7
        assert (max(ground, text) + 0.05) / (min(ground, text) + 0.05) >= 7
    assert grounds["dark"] < 0.1 < 0.8 < grounds["light"]


def test_the_description_of_the_api_is_one_link_away(inside: Browser) -> None:
    inside.link("The API that these pages use").click()
    inside.until(lambda: inside.url.endswith("/api/v1/docs"), "the description")
    assert "/policy/rules" in inside.text


def test_an_inline_script_would_not_run_and_would_be_seen(inside: Browser) -> None:
    """The control of every test here: what the policy forbids shows in the console."""
    inside.run(
        "const s = document.createElement('script'); s.textContent = 'window.ran = 1';"
        "document.body.append(s);"
    )
    assert inside.run("return window.ran === undefined")
    assert any("Content Security Policy" in said for said in complaints(inside))


def test_a_logout_leaves_nothing_to_go_back_to(inside: Browser, coordinator: Coordinator) -> None:
    inside.open(f"{coordinator.url}/ui/setup-keys")
    inside.one("header form button").click()
    inside.until(lambda: inside.url.endswith("/ui/login"), "the login")
    inside.open(f"{coordinator.url}/ui/setup-keys")
    assert inside.url.endswith("/ui/login")
    with pytest.raises(DriverError, match="no such cookie"):
        inside.ask("GET", "/cookie/__Host-ztlab")


def _luminance(colour: str) -> float:
    """WCAG 2.2's relative luminance of `rgb(…)` or `rgba(…)`."""
    parts = [float(p) for p in colour[colour.index("(") + 1 : -1].split(",")[:3]]
    linear = [c / 255 / 12.92 if c <= 10.31 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
