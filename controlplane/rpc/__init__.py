"""The edge: asyncio gRPC, messages to core values and back. Decides nothing and knows no database."""
