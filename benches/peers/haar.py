"""OpenCV's cascade of Haar features, the only face detector whose model it brings along. It has no embedder."""

import cv2

import timing

cv2.setNumThreads(timing.CORES)
DETECTOR = cv2.CascadeClassifier(cv2.data.haarcascades + "haarcascade_frontalface_default.xml")


def detect(picture):
    grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
    return DETECTOR.detectMultiScale(grey, scaleFactor=1.1, minNeighbors=5, minSize=(80, 80))


if __name__ == "__main__":
    timing.run(detect)
