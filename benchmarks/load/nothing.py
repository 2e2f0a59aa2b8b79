"""The least that an API on Ray Serve costs: FastAPI routes that do nothing but take the body in, where there is one."""

# No postponed annotations here: Serve rebuilds the routes from the methods' signatures and needs the types themselves.

from fastapi import FastAPI, Request
from ray import serve

app = FastAPI()


@serve.deployment(name="Nothing", max_ongoing_requests=1000)
@serve.ingress(app)
class Nothing:
    """Answers."""

    @app.post("/")
    async def post(self, request: Request) -> dict[str, str]:
        """Nothing. Serve fetches the body from its proxy with a call of its own, so that is part of the least."""
        await request.body()
        return {"status": "ok"}

    @app.get("/")
    async def get(self) -> dict[str, str]:
        """Nothing."""
        return {"status": "ok"}
