"""Everything the eye sees, overlays, charts and the report, without matplotlib or torch."""
