"""The Beam DAG and all that runs in it, and the command line. The only package that imports Beam."""
