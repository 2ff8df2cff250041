"""How bytes move between ranks: real processes, or threads of one process."""

from video_infinity.comm.base import Communicator, Message, Pending, SingleCommunicator

__all__ = ["Communicator", "Message", "Pending", "SingleCommunicator"]
