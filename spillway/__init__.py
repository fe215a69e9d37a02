"""Spillway: LLM inference that stays at home and spills to the cloud only when it must."""
