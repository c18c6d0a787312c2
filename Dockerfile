# docker build -t cait-viz .
# docker run --rm -p 8501:8501 cait-viz                                    the app, on http://localhost:8501
# docker run --rm -v "$PWD:/pictures:ro" cait-viz predict /pictures/x.jpg  any other command
#
# The bundled model's weights are inside, so that it works with no network. Weights that are downloaded
# stay where a volume is given for them: -v cait-viz-hub:/home/app/.cache

FROM python:3.11-slim

ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PYTHONUNBUFFERED=1

WORKDIR /srv/cait-viz

# First, so that a change of the program does not install TensorFlow anew.
COPY requirements.txt ./
RUN pip install --requirement requirements.txt

# The volume's folder has to exist as the user's own, or Docker would make it root's.
RUN useradd --create-home app && install --directory --owner=app --group=app /home/app/.cache

COPY .streamlit ./.streamlit
COPY assets ./assets
COPY app.py ./
COPY cait_viz ./cait_viz
# The user cannot write here: without this every start would compile the sources again.
RUN python -m compileall -q app.py cait_viz

# The package is used where it lies, from any folder.
ENV PYTHONPATH=/srv/cait-viz
USER app
VOLUME /home/app/.cache

EXPOSE 8501
# Without urllib, which would ask a proxy that Docker may have put into the environment.
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s CMD ["python", "-c", "\
import http.client, sys; \
server = http.client.HTTPConnection('127.0.0.1', 8501, timeout=4); \
server.request('GET', '/_stcore/health'); \
sys.exit(server.getresponse().status != 200)"]

ENTRYPOINT ["python", "-m", "cait_viz"]
CMD ["app", "--port", "8501", "--host", "0.0.0.0"]
