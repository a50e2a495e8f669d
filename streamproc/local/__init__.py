"""The local AWS stack for demonstrations and tests."""
