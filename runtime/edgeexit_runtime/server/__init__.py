"""The server's side of the tiers: tails of a bundle behind the Open Inference Protocol.

    counts       what happened so far, in plain numbers
    forecast     how long what waits will take
    jobs         requests, and groups of samples of several requests
    queues       samples in front of the segments, and which batch is next
    touring      what the worker does with a batch
    scheduler    requests through queues and segments to their answers
    handing      what this tier could not resolve goes to the next
    service      the calls of the protocol
    security     tokens and certificates
    addresses    where to listen, and where not
    metrics      the counts, for Prometheus
    logs         one JSON document a line
    websocket    an answer a sample as soon as it is there
    serving      all of them together, until told to stop
    ray          the same on Ray Serve, in processes that come and go

grpc, tritonclient, prometheus_client, websockets and ray are imported in `service`, `security`, `metrics`, `serving`,
`websocket` and `ray` alone.
"""
