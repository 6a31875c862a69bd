"""What is measured of attention sinks: one file a metric. A metric knows taps and weights, never variants."""
