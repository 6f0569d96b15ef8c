"""The methods by name: METHODS[name](**its numbers) is a Method."""
from collections.abc import Callable

from sskd_jax.methods import at, cc, dist, dkd, fitnet, kd, kdsvd, nst, pkt, rkd, scratch, sp, sskd, vid
from sskd_jax.types import Method

METHODS: dict[str, Callable[..., Method]] = {
    "scratch": scratch.scratch, "kd": kd.kd, "fitnet": fitnet.fitnet, "at": at.at, "sp": sp.sp, "cc": cc.cc,
    "vid": vid.vid, "rkd": rkd.rkd, "pkt": pkt.pkt, "nst": nst.nst, "kdsvd": kdsvd.kdsvd, "dkd": dkd.dkd,
    "dist": dist.dist, "sskd": sskd.sskd,
}
