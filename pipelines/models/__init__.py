"""Model versions: verdicts, approval, promotion, release, shadow, reproduction."""
