"""What each operation of the API does about a world. Plain functions that raise Refusal for everything Webex would refuse."""
