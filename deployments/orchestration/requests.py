"""What is sent to the stage of each node of a job, and the nodes whose outputs follow by reference."""

from __future__ import annotations

from collections.abc import Mapping

from deployments.orchestration.committed import Committed
from deployments.stages.messages import (
    DecodeRequest,
    DenoiseRequest,
    ImageRequest,
    PublishRequest,
    Request,
    TextRequest,
)
from jobs.record import Job
from jobs.stored import Checkpoint
from pipelines.graph import Graph, Node
from pipelines.one_color import asks_for_one_color
from pipelines.output import Output
from pipelines.stages import Stage
from pipelines.strict import read_stored
from storage.keys import input_key


def request_of(job: Job, graph: Graph, node: Node) -> tuple[Request, tuple[str, ...]]:
    """The request for any node but a denoise, and the nodes whose outputs follow it, in order."""
    match node.stage:
        case Stage.TEXT_ENCODE:
            return TextRequest(job.prompt, node.parameters), ()
        case Stage.IMAGE_ENCODE:
            if node.frame is None:
                return ImageRequest(input_key(job), node.parameters), ()
            return ImageRequest(None, node.parameters), (node.frame,)
        case Stage.DECODE:
            video, output = graph.nodes[-1].parameters, read_stored(Output, job.output)
            plain = asks_for_one_color(job.prompt)
            return DecodeRequest(job.model, node.parameters, video, output, node.last_frame, plain), node.latents
        case _:
            assert node.video is not None
            return PublishRequest(job), (node.video,)


def denoise_request(
    job: Job,
    graph: Graph,
    node: Node,
    committed: Committed,
    *,
    token: str,
    denoiser: str,
    checkpoint: Checkpoint | None,
    revisions: Mapping[str, str],
) -> DenoiseRequest:
    """The request for a denoise at the denoiser that the pool has assigned."""
    return DenoiseRequest(
        job_id=job.id,
        model=job.model,
        node=node.name,
        parameters=node.parameters,
        needed=graph.needed_latents,
        input=committed.input_of(node),
        token=token,
        denoiser=denoiser,
        checkpoint=checkpoint,
        revisions=revisions,
    )


def denoise_inputs(node: Node) -> Mapping[str, str]:
    """The nodes whose outputs follow the request for a denoise, by the name under which the denoiser takes them."""
    given = {"text": node.text, "image": node.image, "latents": next(iter(node.latents), None)}
    return {name: of for name, of in given.items() if of is not None}
