"""For how long content may be kept where it goes, and what an answer of unknown price may cost."""

from __future__ import annotations

import pytest

from services.router.policy_settings import PolicySettings
from spillway import v1
from spillway.deadline import Deadline
from spillway.errors import CostCap, NoCompliantTarget
from spillway.rpc.call import Call
from tests.integration.router.mesh import running_mesh, text

MONTH = v1.RoutingPolicy(data_policy=v1.DataPolicy(max_retention_days=30), denied_targets=["local"])


@pytest.mark.parametrize("kept", [0, 30])
async def test_content_goes_where_it_is_kept_no_longer_than_asked_and_the_stamp_says_so(kept: int) -> None:
    async with running_mesh(retention_days=kept) as mesh:
        assert (await mesh.generate(text(), MONTH)).started.target == "cloud"
        assert mesh.cloud.seen[0].request.stamp.data_policy.max_retention_days == 30


@pytest.mark.parametrize("kept", [31, None])
async def test_content_stays_rather_than_be_kept_for_longer_or_nobody_knows_how_long(kept: int | None) -> None:
    async with running_mesh(retention_days=kept) as mesh:
        with pytest.raises(NoCompliantTarget, match="30 days at most"):
            await mesh.generate(text(), MONTH)
        call = Call("test", Deadline.after(5))
        request = v1.ExplainRouteRequest(spec=text(), policy=MONTH)
        told = await mesh.remote.unary(mesh.routes.ExplainRoute, request, call, span_name="test")
        assert mesh.cloud.seen == []
    [why] = [candidate.reasons[0] for candidate in told.plan.candidates if candidate.target == "cloud"]
    assert "at most; there it is kept" in why


async def test_the_owners_bound_holds_for_who_asks_for_more() -> None:
    async with running_mesh(PolicySettings(max_retention_days=7), retention_days=30) as mesh:
        with pytest.raises(NoCompliantTarget, match="7 days at most"):
            await mesh.generate(text(), MONTH)


async def test_no_known_price_is_no_price_that_a_cap_could_hold() -> None:
    cap = 1e-9
    async with running_mesh(PolicySettings(max_cost_usd=cap)) as mesh:  # which declares no price of `local`
        with pytest.raises(CostCap, match="its price is unknown"):
            await mesh.generate(text())
        assert mesh.local.seen == mesh.cloud.seen == []
    async with running_mesh(PolicySettings(max_cost_usd=cap, unknown_price="allow")) as mesh:
        assert (await mesh.generate(text())).started.target == "local"
        with pytest.raises(CostCap):
            await mesh.generate(text(), v1.RoutingPolicy(max_cost_nano_usd=1))
