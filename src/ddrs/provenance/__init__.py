"""What made a result: digests that repeat (kept in the results), and facts that do not (kept in a sidecar under logs/)."""
