"""Device meshes: which data-parallel rank a process is under tensor, pipeline, context and expert parallelism."""

from typing import TypedDict

from torch.distributed.device_mesh import DeviceMesh


class Rank(TypedDict):
    """Arguments for `schedule` and `ScheduledBatchSampler`."""

    rank: int
    world_size: int
    follows: bool


def rank_in(mesh: DeviceMesh, *data_parallel: str) -> Rank:
    """The data-parallel rank of this process in a mesh, and whether it follows another process of that rank.

        mesh = init_device_mesh("cuda", (2, 4), mesh_dim_names=("dp", "tp"))
        loader, sampler = schedule(loader, name="run-1", modalities=["text"], **rank_in(mesh, "dp"))

    data_parallel: the names of the dimensions over which batches are shared out, as ("dp_replicate", "dp_shard"). All
    processes that differ in other dimensions alone get the same rows and call `feedback` alike; that of the last of
    them in each dimension counts, since a pipeline's last stage is the one that has logits. Raises ValueError for names
    that the mesh has not, and in a process that is not in it.
    """
    names, here = mesh.mesh_dim_names or (), mesh.get_coordinate()
    if not data_parallel or not set(data_parallel) <= set(names):
        raise ValueError(f"data_parallel must be some of the mesh's dimensions {names}, got {data_parallel}")
    if here is None:
        raise ValueError("mesh must be one that this process is in")
    rank, world_size, follows = 0, 1, False
    for name, place, size in zip(names, here, mesh.shape, strict=True):
        if name in data_parallel:
            rank, world_size = rank * size + place, world_size * size
        else:
            follows |= place < size - 1
    return Rank(rank=rank, world_size=world_size, follows=follows)
