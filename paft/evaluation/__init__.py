"""Scoring every test prompt on every test example, and the robustness that the score matrix shows."""
