"""The least that an API on Ray Serve costs: FastAPI routes that do nothing."""

# No postponed annotations here: Serve rebuilds the routes from the methods' signatures and needs the types themselves.

from fastapi import FastAPI
from ray import serve

app = FastAPI()


@serve.deployment(name="Nothing", max_ongoing_requests=1000)
@serve.ingress(app)
class Nothing:
    """Answers."""

    @app.post("/")
    async def post(self) -> dict[str, str]:
        """Nothing."""
        return {"status": "ok"}

    @app.get("/")
    async def get(self) -> dict[str, str]:
        """Nothing."""
        return {"status": "ok"}
