"""Spillway beside other gateways: the same load through each, in turns."""
