"""Masks among pictures are paired with their scans by name or left out; they are never scans."""

from __future__ import annotations

import pytest

from data.importing.picture_masks import pair_masks


@pytest.mark.parametrize(
    ("scan", "mask"),
    [
        ("t/1.png", "t/1_mask.png"),
        ("t/1.jpg", "t/1_MASK.png"),
        ("t/1.png", "t/mask_1.png"),
        ("t/1.png", "t/1mask.png"),
        ("t/a-7.png", "t/a-7-seg.png"),
        ("t/a.7.png", "t/a.7.mask.png"),
        ("t/x.png", "t/masks/x.png"),
        ("t/images/x.png", "t/masks/x.png"),
        ("t/x.png", "t/mask/x_mask.png"),
        ("b/benign (1).png", "b/benign (1)_mask.png"),
        ("b/benign (1).png", "b/benign (1)_mask_1.png"),
        ("t/x_1.png", "t/x_1_segmentation.png"),
        ("t/x.dcm", "t/x_mask.nii.gz"),
    ],
)
def test_a_mask_is_paired_with_the_scan_of_its_name(scan: str, mask: str) -> None:
    assert pair_masks([scan, mask, "t/other.png"]) == ({scan: mask}, {})


@pytest.mark.parametrize("names", [["t/2_mask.png", "t/1.png"], ["u/1_mask.png", "t/1.png"], ["t/mask.png", "t/1.png"]])
def test_a_mask_without_a_scan_is_left_out(names: list[str]) -> None:
    mask_by_scan, left_out = pair_masks(names)
    assert not mask_by_scan and list(left_out) == names[:1]


def test_two_masks_of_one_scan_and_two_scans_of_one_mask_are_left_out() -> None:
    mask_by_scan, left_out = pair_masks(
        ["b/1.png", "b/1_mask.png", "b/1_mask_1.png", "c/1.png", "c/1.jpg", "c/1_mask.png"]
    )
    assert not mask_by_scan and set(left_out) == {"b/1_mask.png", "b/1_mask_1.png", "c/1_mask.png"}


def test_names_that_only_start_like_a_mask_are_scans() -> None:
    assert pair_masks(["t/segal_1.png", "t/labelled 2.png", "t/gtx.png"]) == ({}, {})
