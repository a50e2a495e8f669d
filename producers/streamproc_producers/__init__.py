"""The SDK that apps import: the cart-event contract and the producer that sends it."""
