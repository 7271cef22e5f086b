"""An OpenAI-compatible server of an accelerated model, which ``illava serve`` runs.

It needs FastAPI, uvicorn, httpx and prometheus-client: ``pip install 'illava[serve]'``. The application,
:func:`illava.serving.app.create_app`, knows neither uvicorn nor the command line, so that other ASGI servers
can run it.
"""
