"""A safety head fitted to the vectors of an encoder that exists: labels, policies in words, the head and its report.

Nothing here imports torch when it is imported: a head is fitted where only vectors are.
"""
