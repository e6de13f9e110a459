"""The sites and scanners that a release answers for: the source of a case, and the calibration that applies to it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from data.core_types import Scan
from lineage import site_hash

WITHHOLD, ANSWER = "withhold", "answer"  # what a release does with scans of a source that was not accepted
PROMOTION, ACCEPTANCE = "promotion", "acceptance"  # what a site was accepted by
SITE_THRESHOLD = "site_threshold"  # in the description of an answer
UNNAMED = ""  # the site of scans without a source, in a workspace whose data name no site
NOT_CHECKED = "sites are not checked in this release"
SEVERAL_SITES = "the files of this case come from different sites; send the files of one site at a time"
NO_SITE = (
    "the site of this scan is unknown: the file names no institution, and neither the sender's token nor "
    "`serving.site` names one; make a token with `oncoloop login NAME --token --site SITE`"
)


@dataclass(frozen=True)
class AcceptedSite:
    """A site that was accepted for a task, with its scanners.

    `hashes` are of the site's name and of the institutions in the headers of its scans. An acceptance without
    `scanners` is for scans that name no scanner. A site without `calibration` has that of the model.
    """

    hashes: frozenset[str]
    scanners: frozenset[str]
    calibration: SiteCalibration | None


@dataclass(frozen=True)
class SiteCalibration:
    """Temperature, operating point, and conformal level and quantiles (None: not calibrated) of one site."""

    temperature: float
    threshold: float
    conformal: tuple[float, tuple[float, ...]] | None


@dataclass(frozen=True)
class Source:
    """The source of a case as keyed hashes, "" where unknown: `sites` of its files, and their `scanners`."""

    sites: frozenset[str]
    scanners: frozenset[str]

    def facts(self, site: AcceptedSite | None) -> dict[str, float | str]:
        """The facts that the journal stores, with the operating point of a site that has one of its own."""
        hashes = {"site_hash": " ".join(sorted(self.sites)), "scanner_hash": " ".join(sorted(self.scanners))}
        own_calibration = {SITE_THRESHOLD: site.calibration.threshold} if site and site.calibration else {}
        return hashes | own_calibration


@dataclass(frozen=True)
class SiteFindings:
    """Reasons to withhold the answer because of its source, and warnings."""

    faults: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


def read_accepted_site(facts: dict[str, Any]) -> AcceptedSite:
    """An accepted site from its entry in a manifest."""
    hashes, scanners = frozenset({facts["site"], *facts["institutions"]}), frozenset(facts["scanners"])
    if facts["basis"] == PROMOTION:
        return AcceptedSite(hashes, scanners, None)
    conformal = facts["conformal"]
    levels = None if conformal is None else (float(conformal["level"]), tuple(map(float, conformal["quantiles"])))
    calibration = SiteCalibration(float(facts["temperature"]), float(facts["threshold"]), levels)
    return AcceptedSite(hashes, scanners, calibration)


def read_source(scans: Sequence[Scan], sender_site: str, own_site: str) -> Source:
    """The source of a case: the institution in the header of each file, else the sender's site, else the desk's own."""
    fallback = sender_site or own_site
    sites = {site_hash.hash_site(scan.identity.institution) or fallback for scan in scans}
    scanners = {site_hash.hash_scanner(scan.scanner) for scan in scans} - {""}
    return Source(frozenset(sites), frozenset(scanners))


def find_site(
    sites: Sequence[AcceptedSite] | None, source: Source, task: str, unknown_sites: str
) -> tuple[AcceptedSite | None, SiteFindings]:
    """The newest acceptance of a source for a task, and what the serving gate has to know of the source.

    A source that was not accepted is a reason to withhold the answer, or a warning if `unknown_sites` is `answer`.
    `sites` is None in a release of an earlier version, which has no list of sites: it answers with a warning.
    """
    if sites is None:
        return None, SiteFindings(warnings=(NOT_CHECKED,))
    site_acceptances = [site for site in sites if source.sites <= site.hashes]
    acceptance = next((site for site in site_acceptances if source.scanners <= site.scanners), None)
    if acceptance is not None:
        return acceptance, SiteFindings()
    advice = f"has not been accepted for {task}; an engineer accepts it with `oncoloop site accept`"
    fault = f"the scanner of this scan {advice}" if site_acceptances else f"the site of this scan {advice}"
    if len(source.sites) > 1:
        fault = SEVERAL_SITES
    elif source.sites == {UNNAMED} and not site_acceptances:
        fault = NO_SITE
    return None, SiteFindings(faults=(fault,)) if unknown_sites == WITHHOLD else SiteFindings(warnings=(fault,))
