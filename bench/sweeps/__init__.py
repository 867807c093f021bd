"""dphr-bench sweep: one figure over a grid of settings, a record for each point.

    sweep match               generated galleries: rows x D x dtype x scan x threads x queries x k x prior radius
    sweep embed BUNDLE...     bundle (encoder, image size) x device x precision x threads x batch
    sweep filter              the flight's filter on generated galleries: cells

Every record has one entry in `matching`, `batches` or `scenarios`, so that `dphr-bench compare` reads it. Every point
of the first two is checked in the same run: matching against a plain product, embedding against the self-test.
"""
