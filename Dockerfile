# docker build -t cait-viz .
# docker run --rm -p 8501:8501 cait-viz                                    the app, on http://localhost:8501
# docker run --rm -v "$PWD:/images:ro" cait-viz predict /images/x.jpg      any other command
#
# The bundled model's weights are in the image, so it works without a network. A volume keeps downloaded
# weights: -v cait-viz-hub:/home/app/.cache

FROM python:3.11-slim

ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PYTHONUNBUFFERED=1

WORKDIR /srv/cait-viz

# First, so that a change of the program does not install TensorFlow again.
COPY requirements.txt ./
RUN pip install --requirement requirements.txt

# Docker gives the volume's folder to root unless it exists and belongs to the user.
RUN useradd --create-home app && install --directory --owner=app --group=app /home/app/.cache

COPY .streamlit ./.streamlit
COPY assets ./assets
COPY app.py ./
COPY cait_viz ./cait_viz
# The user cannot write here, so every start would otherwise compile the sources again.
RUN python -m compileall -q app.py cait_viz

# The package is not installed; it is found from any folder.
ENV PYTHONPATH=/srv/cait-viz
USER app
# Exports the network once, into the cache.
RUN python -m cait_viz predict assets/samples/cat.jpg
VOLUME /home/app/.cache

EXPOSE 8501
# Not urllib, which would use a proxy that Docker may have put into the environment. Under a base path the
# server answers 404 here, and is as healthy.
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s CMD ["python", "-c", "\
import http.client, sys; \
server = http.client.HTTPConnection('127.0.0.1', 8501, timeout=4); \
server.request('GET', '/_stcore/health'); \
sys.exit(server.getresponse().status >= 500)"]

ENTRYPOINT ["python", "-m", "cait_viz"]
CMD ["app", "--port", "8501", "--host", "0.0.0.0"]
