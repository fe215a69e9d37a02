"""A kit for testing what is built on Spillway: real servers in process, scripted faults, a clock moved by hand."""
