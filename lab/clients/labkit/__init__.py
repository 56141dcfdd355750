"""What the black-box tests are made of: brokers, client workers, checkers."""
