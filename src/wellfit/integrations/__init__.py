"""Thin callbacks that put the doctor beside other people's trainers. Each file imports its library when it is used.

>>> from wellfit.integrations.hf import DoctorCallback
>>> trainer = transformers.Trainer(..., callbacks=[DoctorCallback()])
"""
