"""Tenants and servers: evenly spread, and few of them move."""

from __future__ import annotations

from collections import Counter

from bot.engine_client.replicas.address import address_of, numbered
from bot.engine_client.replicas.rendezvous import preferred_order

TENANTS = [f"guild-{number}" for number in range(4000)]
SERVERS = ["a:8000", "b:8000", "c:8000", "d:8000"]


def homes(servers: list[str]) -> dict[str, str]:
    return {tenant: servers[preferred_order(tenant, servers)[0]] for tenant in TENANTS}


def test_tenants_are_spread_evenly():
    counts = Counter(homes(SERVERS).values())
    assert set(counts) == set(SERVERS)
    assert all(850 < count < 1150 for count in counts.values()), counts


def test_when_a_server_goes_only_its_tenants_move_and_they_spread_over_all_others():
    before, after = homes(SERVERS), homes(SERVERS[:2] + SERVERS[3:])
    moved = [tenant for tenant in TENANTS if before[tenant] != after[tenant]]
    assert {before[tenant] for tenant in moved} == {"c:8000"}
    assert all(count > 250 for count in Counter(after[tenant] for tenant in moved).values())


def test_another_server_takes_its_share_and_no_more():
    before, after = homes(SERVERS), homes([*SERVERS, "e:8000"])
    moved = [tenant for tenant in TENANTS if before[tenant] != after[tenant]]
    assert {after[tenant] for tenant in moved} == {"e:8000"}
    assert 650 < len(moved) < 950


def test_the_order_in_the_settings_does_not_matter():
    assert homes(SERVERS) == homes(SERVERS[::-1])


def test_addresses_have_no_credentials():
    assert address_of("https://ann:secret@gpu.example/v1") == "gpu.example:443"
    assert address_of("http://10.0.0.5:8000/v1") == "10.0.0.5:8000"
    assert address_of("http://[fd00::5]:8000/v1") == "[fd00::5]:8000"
    assert address_of("https://gate.example/eu/v1") == "gate.example:443/eu/v1"
    assert numbered(2, "http://x:secret@b:1/v1") == "2 (b:1)"
