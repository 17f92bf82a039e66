"""What runs the pipeline elsewhere: the image, Dataflow's Flex Template, a Flink cluster to try. Not installed."""
