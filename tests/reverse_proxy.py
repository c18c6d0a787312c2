"""A small reverse proxy, as a web server in front of the app is one: it hands on what is under one path."""

import asyncio
import contextlib
import threading
import time

import httpx2
import uvicorn
import websockets
from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocketDisconnect

# What holds for one connection alone, and what httpx has undone.
_OF_THE_CONNECTION = {"connection", "keep-alive", "transfer-encoding", "content-length", "content-encoding"}


@contextlib.contextmanager
def reverse_proxy(behind, path):
    """Its address with that path; `behind` is the address of the server behind it, without a path."""
    target = httpx2.URL(behind)

    async def hand_on(request):
        async with httpx2.AsyncClient(trust_env=False, timeout=60) as client:
            answer = await client.request(
                request.method,
                target.copy_with(raw_path=request.scope["raw_path"] + b"?" + request.scope["query_string"]),
                headers=request.headers.raw,  # the host too: the app compares it with the origin
                content=await request.body(),
            )
        response = Response(answer.content, answer.status_code)
        response.raw_headers = [
            (name.lower(), value)
            for name, value in answer.headers.raw
            if name.decode().lower() not in _OF_THE_CONNECTION
        ]
        response.headers["content-length"] = str(len(answer.content))
        return response

    async def hand_on_socket(socket):
        headers = socket.headers
        async with websockets.connect(
            f"ws://{headers['host']}{socket.url.path}",
            host=target.host,
            port=target.port,
            origin=headers["origin"],
            subprotocols=headers["sec-websocket-protocol"].split(", "),
            additional_headers={"Cookie": headers.get("cookie", "")},
            max_size=None,
            proxy=None,
        ) as inner:
            await socket.accept(inner.subprotocol)

            async def outwards():
                async for message in inner:
                    await socket.send_bytes(message)

            sending = asyncio.create_task(outwards())
            with contextlib.suppress(WebSocketDisconnect):
                while True:
                    await inner.send(await socket.receive_bytes())
            sending.cancel()

    methods = ["GET", "HEAD", "PUT", "POST", "DELETE", "OPTIONS"]
    application = Starlette(
        routes=[
            Route(path, hand_on, methods=methods),
            Route(f"{path}/{{rest:path}}", hand_on, methods=methods),
            WebSocketRoute(f"{path}/{{rest:path}}", hand_on_socket),
        ]
    )
    server = uvicorn.Server(uvicorn.Config(application, host="127.0.0.1", port=0, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    yield f"http://127.0.0.1:{port}{path}"
    server.should_exit = True
    thread.join(30)
