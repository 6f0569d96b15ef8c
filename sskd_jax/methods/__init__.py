"""The methods by name: METHODS[name](**its numbers) is a Method."""

from collections.abc import Callable

from sskd_jax.methods import (
    ab,
    at,
    cc,
    crd,
    dist,
    dkd,
    fitnet,
    fsp,
    ft,
    hsakd,
    hssakd,
    kd,
    kdsvd,
    nst,
    pkt,
    reviewkd,
    rkd,
    scratch,
    sp,
    sskd,
    vid,
)
from sskd_jax.types import Method

METHODS: dict[str, Callable[..., Method]] = {
    "scratch": scratch.scratch,
    "kd": kd.kd,
    "fitnet": fitnet.fitnet,
    "at": at.at,
    "sp": sp.sp,
    "cc": cc.cc,
    "vid": vid.vid,
    "rkd": rkd.rkd,
    "pkt": pkt.pkt,
    "ab": ab.ab,
    "ft": ft.ft,
    "crd": crd.crd,
    "nst": nst.nst,
    "fsp": fsp.fsp,
    "kdsvd": kdsvd.kdsvd,
    "dkd": dkd.dkd,
    "dist": dist.dist,
    "reviewkd": reviewkd.reviewkd,
    "sskd": sskd.sskd,
    "hsakd": hsakd.hsakd,
    "hsakd_joint": hsakd.hsakd_joint,
    "hssakd": hssakd.hssakd,
}
