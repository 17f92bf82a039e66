"""The workers' image, Dataflow's Flex Template, and an example of a Flink cluster. Not installed."""
