"""The operators' rpcs of the router."""

from __future__ import annotations

import asyncio
from typing import Any

from spillway import v1
from spillway.errors import RequestInvalid
from spillway.rpc.keys import ADMIN
from spillway.v1 import router_admin_pb2_grpc

from . import union
from .leases import Leases
from .policy_document import read
from .siblings import Siblings
from .status import Status, tell_finding

ADMIN_SERVICE = "spillway.v1.RouterAdminService"
SCOPES = {ADMIN_SERVICE: ADMIN}
"""What a caller's key must be for, where it is not `generate`."""


class AdminServicer(router_admin_pb2_grpc.RouterAdminServiceServicer):
    """RouterAdminService, for all workers of the router whichever is asked."""

    def __init__(self, status: Status, leases: Leases, siblings: Siblings) -> None:
        self._status = status
        self._siblings = siblings
        self._router = status.router
        self._leases = leases

    async def CheckPolicy(self, request: v1.CheckPolicyRequest, context: Any) -> v1.CheckPolicyResponse:
        found = await asyncio.to_thread(read, request.document)
        return v1.CheckPolicyResponse(sound=found.book is not None, findings=map(tell_finding, found.findings))

    async def ReloadPolicy(self, request: v1.ReloadPolicyRequest, context: Any) -> v1.ReloadPolicyResponse:
        file = self._status.file
        if file is None:
            raise RequestInvalid("this router has no policy_file: its policy is in its settings, read at the start")
        await file.look()
        others = await self._siblings.ask("ReloadPolicy", request, context)
        findings = union.of_findings(map(tell_finding, file.findings), *(other.findings for other in others))
        return v1.ReloadPolicyResponse(policy_revision=self._router.book.revision, findings=findings)

    async def GetStatus(self, request: v1.GetStatusRequest, context: Any) -> v1.GetStatusResponse:
        return union.of_status(self._status.told(), await self._siblings.ask("GetStatus", request, context))

    async def ResetBreaker(self, request: v1.ResetBreakerRequest, context: Any) -> v1.ResetBreakerResponse:
        found = self._status.find(request.target)
        for target in found:
            self._router.breakers.reset(target.name)
        others = await self._siblings.ask("ResetBreaker", request, context)
        told = union.of_targets(map(self._status.target, found), *(other.targets for other in others))
        return v1.ResetBreakerResponse(target=told[0], targets=told)

    async def ListLeases(self, request: v1.ListLeasesRequest, context: Any) -> v1.ListLeasesResponse:
        return v1.ListLeasesResponse(leases=await self._leases.told(request.name))

    async def ReleaseLease(self, request: v1.ReleaseLeaseRequest, context: Any) -> v1.ReleaseLeaseResponse:
        return v1.ReleaseLeaseResponse(lease=await self._leases.release(request.name))
