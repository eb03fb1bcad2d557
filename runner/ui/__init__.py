"""`runner ui`: a local web page of the runs."""
