"""What an owner writes to publish something, as the manifest and the announcement of it."""

from protocols.changes import (
    AdoptionChange,
    Change,
    HumanKeyChange,
    ParameterChange,
    Setting,
)
from protocols.cid import parse_cid
from protocols.gossip.announcement import AdapterBody, BenchmarkClaim, KernelBody
from protocols.keytext import parse_key
from protocols.manifest import AdapterManifest, Benchmark, FileRef, KernelManifest, ProposalManifest
from synapsed.control import ledgermodels as said
from synapsed.control.models import AdapterDraft, BenchmarkDraft, KernelDraft, ProposalDraft


def adapter_manifest(draft: AdapterDraft, file: FileRef, author: bytes) -> AdapterManifest:
    """The manifest of an adapter whose file is in the store. MalformedError for what is wrong."""
    return AdapterManifest(
        name=draft.name,
        description=draft.description,
        base=parse_cid(draft.base),
        target_modules=tuple(sorted(set(draft.target_modules))),
        target_experts=tuple(sorted(set(draft.target_experts))),
        rank=draft.rank,
        alpha_milli=max(1, _milli(draft.alpha)),
        file=file,
        author=author,
        approved_by_human=draft.approved_by_human,
        depends_on=tuple(parse_cid(cid) for cid in draft.depends_on),
    )


def kernel_manifest(draft: KernelDraft, file: FileRef, author: bytes) -> KernelManifest:
    """The manifest of a kernel whose file is in the store. MalformedError for what is wrong."""
    claims = (
        Benchmark(
            metric=each.metric,
            unit=each.unit,
            workload=each.workload,
            value=_milli(each.value),
            baseline=_milli(each.baseline),
        )
        for each in draft.benchmarks
    )
    return KernelManifest(
        name=draft.name,
        description=draft.description,
        operation=draft.operation,
        architecture=draft.architecture,
        language=draft.language,
        file=file,
        benchmarks=tuple(sorted(claims, key=lambda each: (each.metric, each.workload))),
        author=author,
        depends_on=tuple(parse_cid(cid) for cid in draft.depends_on),
    )


def proposal_manifest(draft: ProposalDraft, author: bytes) -> ProposalManifest:
    """The manifest of a proposal. MalformedError for what is wrong."""
    return ProposalManifest(title=draft.title, description=draft.text, author=author, depends_on=())


def proposal_change(request: said.ProposalRequest) -> Change | None:
    """What a proposal would change. MalformedError for what is wrong."""
    match request:
        case said.ParameterProposal():
            named = sorted((each.name, each.value) for each in request.changes)
            return ParameterChange(settings=tuple(Setting(*each) for each in named))
        case said.HumanKeyProposal():
            key = parse_key(request.key)
            return HumanKeyChange(action=request.action, name=request.name, key=key)
        case said.AdoptionProposal():
            return AdoptionChange(what=request.what, manifest=parse_cid(request.manifest))
        case _:
            return None


def decided_manifest(request: said.ProposalRequest, author: bytes) -> ProposalManifest:
    """The manifest of a proposal to the ledger. MalformedError for what is wrong."""
    return ProposalManifest(
        title=request.title,
        description=request.text,
        author=author,
        depends_on=tuple(parse_cid(cid) for cid in request.links),
        change=proposal_change(request),
    )


def adapter_body(cid: bytes, manifest: AdapterManifest) -> AdapterBody:
    """What is announced of an adapter; `cid` is its manifest's."""
    return AdapterBody(
        adapter=cid,
        base=manifest.base,
        name=manifest.name,
        rank=manifest.rank,
        size=manifest.file.size,
    )


def kernel_body(cid: bytes, manifest: KernelManifest, foremost: BenchmarkDraft) -> KernelBody:
    """What is announced of a kernel, with the benchmark that its author put first."""
    return KernelBody(
        kernel=cid,
        operation=manifest.operation,
        architecture=manifest.architecture,
        benchmark=BenchmarkClaim(
            metric=foremost.metric,
            unit=foremost.unit,
            value=_milli(foremost.value),
            baseline=_milli(foremost.baseline),
        ),
        size=manifest.file.size,
    )


def _milli(value: float) -> int:
    """Thousandths: what is signed has no floating point."""
    return round(value * 1000)
