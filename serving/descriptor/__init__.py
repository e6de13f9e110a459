"""A frozen encoder that was trained on photographs, and the test that refuses a picture of another kind."""
