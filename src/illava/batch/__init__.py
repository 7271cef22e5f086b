"""``illava batch``: answers a file of rows, in this process or with workers under Ray.

In the order of the data: ``rows`` and ``files`` read IN and its pictures, ``order`` sorts rows into chunks,
``worker`` answers a chunk, ``run`` hands the chunks out, ``on_ray`` does so with Ray Data, and ``results``
writes OUT. Needs ``illava[serve]``.
"""
