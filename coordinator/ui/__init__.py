"""Pages for people at a browser, below /ui/: a client of the management API in the same process.

Every page asks /api/v1 for what it shows and for what it changes, so a form is decoded, judged,
recorded and refused as any other request, and no decision is taken here.
"""
