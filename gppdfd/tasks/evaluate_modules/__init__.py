"""Metric modules for Hugging Face `evaluate`, loaded by folder; nothing else imports them."""
