"""One small description of every form of every network."""

from __future__ import annotations

import pytest

from sls_deploy.models.registry import Description

SMALL = {
    "edsr_x2": Description(
        "edsr",
        {
            "features": 8,
            "blocks": 2,
            "scale": 2,
            "res_scale": 1.0,
            "mean_shift": True,
            "input_range": 255.0,
        },
        2,
        255.0,
    ),
    "edsr_x3": Description(
        "edsr",
        {
            "features": 8,
            "blocks": 1,
            "scale": 3,
            "res_scale": 1.0,
            "mean_shift": True,
            "input_range": 1.0,
        },
        3,
        1.0,
    ),
    "edsr_x4_no_shift": Description(
        "edsr",
        {
            "features": 6,
            "blocks": 3,
            "scale": 4,
            "res_scale": 1.0,
            "mean_shift": False,
            "input_range": 255.0,
        },
        4,
        255.0,
    ),
    "carn_x4": Description(
        "carn",
        {
            "features": 8,
            "groups": 1,
            "efficient": False,
            "shared": False,
            "scale": 4,
            "multi_scale": False,
        },
        4,
        1.0,
    ),
    "carn_m_x3": Description(
        "carn",
        {
            "features": 16,
            "groups": 4,
            "efficient": True,
            "shared": True,
            "scale": 3,
            "multi_scale": True,
        },
        3,
        1.0,
    ),
    "rfdn_x4": Description(
        "rfdn",
        {"features": 10, "distilled": 5, "attention": 3, "blocks": 2, "scale": 4},
        4,
        255.0,
        least_side=15,
    ),
    "rlfn_x2": Description(
        "rlfn",
        {"features": 8, "inner": 12, "attention": 4, "blocks": 2, "scale": 2},
        2,
        255.0,
        least_side=15,
    ),
    "dmphn": Description("dmphn", {"features": 4, "levels": 4}, 1, 1.0, least_side=16, multiple=16),
    "dmphn_1_2_4": Description(
        "dmphn", {"features": 4, "levels": 3}, 1, 1.0, least_side=8, multiple=8
    ),
    "srn": Description(
        "srn",
        {"features": 4, "blocks": 2, "up_kernel": 4},
        1,
        1.0,
        least_side=16,
        multiple=16,
    ),
    "unet": Description(
        "unet", {"features": 4, "halvings": 2, "middle": 1}, 1, 1.0, least_side=4, multiple=4
    ),
}


@pytest.fixture(params=SMALL)
def description(request: pytest.FixtureRequest) -> Description:
    """Each small network in turn."""
    return SMALL[request.param]
