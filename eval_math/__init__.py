"""Problems, grading, statistics and reports: everything that judges a trace and never needs torch."""
